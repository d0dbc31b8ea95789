# Send all results to MLflow: not a stage, its failure stops nothing.
# in:  the report, the last file of a run
# out: a mark that this run was sent


rule track:
    input:
        PATHS.page,
    output:
        touch(".cache/tracked"),
    log:
        "logs/track.log",
    conda:
        "../../envs/light.yaml"
    shell:
        "python -m emplifai track 2>&1 | tee {log:q}"
