#!/bin/sh
# stage.sh STAGE: run one stage by Snakemake. It is the command of every DVC stage, so that both engines run the same rules.
# The profile comes from SNAKEMAKE_PROFILE: `SNAKEMAKE_PROFILE=slurm dvc repro` submits to the cluster.
set -eu
stage=$1
target=$stage
rules=$stage
case $stage in
  finetune | generate | judge) target=all_$stage rules="$stage all_$stage" ;;
  report) target=all rules="report track all" ;;
esac
export SNAKEMAKE_PROFILE="${SNAKEMAKE_PROFILE:-workflow/profiles/local}"
# shellcheck disable=SC2086  # rules is a list
exec snakemake --rerun-incomplete --quiet host --allowed-rules $rules -- "$target"
