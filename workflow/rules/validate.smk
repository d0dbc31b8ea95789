# Check the dialogues.
# in:  data.path of params.yaml, data/labels.yaml
# out: dialogues.jsonl (the good ones), rejects.jsonl (the others, with the reason), overlaps.jsonl
#      (near duplicates, texts that situations share), metrics.json


rule validate:
    input:
        data=data_files(P.data.path),
        labels=P.data.labels,
        code=PATHS.code("validate"),
    output:
        dialogues=PATHS.dialogues,
        rejects=PATHS.rejects,
        overlaps=PATHS.overlaps,
        metrics=PATHS.metrics("validate"),
        record=PATHS.record("validate"),
    log:
        PATHS.log("validate"),
    conda:
        "../../envs/light.yaml"
    params:
        data=[str(P.data.path), P.data.columns, P.data.encoding],
        validate=P.section("validate"),
    shell:
        "python -m emplifai validate 2>&1 | tee {log:q}"
