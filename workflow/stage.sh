#!/bin/sh
# stage.sh STAGE: run one stage by Snakemake. It is the command of every DVC stage, so that both engines run the same rules.
# The profile comes from SNAKEMAKE_PROFILE: `SNAKEMAKE_PROFILE=slurm dvc repro` submits to the cluster.
set -eu
stage=$1
target=$stage
rules=$stage
case $stage in
  finetune) target=all_finetune rules="finetune all_finetune" ;;
  generate | judge) target=all_$stage rules="$stage ${stage}_here ${stage}_shard all_$stage" ;;
  bertscore) rules="bertscore bertscore_shard" ;;
  report) target=all rules="report track all" ;;
esac
export SNAKEMAKE_PROFILE="${SNAKEMAKE_PROFILE:-workflow/profiles/local}"
# shellcheck disable=SC2086  # rules is a list
exec snakemake --quiet host rules --allowed-rules $rules -- "$target"
