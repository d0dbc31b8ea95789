# Split the dialogues by situation.
# in:  the good dialogues
# out: train.jsonl, dev.jsonl, test.jsonl, manifest.json


rule split:
    input:
        dialogues=PATHS.dialogues,
        code=PATHS.code("split"),
    output:
        parts=[PATHS.part(part) for part in ("train", "dev", "test")],
        manifest=PATHS.manifest,
        metrics=PATHS.metrics("split"),
        record=PATHS.record("split"),
    log:
        PATHS.log("split"),
    conda:
        "../../envs/light.yaml"
    params:
        split=P.section("split"),
        near_duplicate=P.section("validate")["near_duplicate"],
    shell:
        "python -m emplifai split 2>&1 | tee {log:q}"
