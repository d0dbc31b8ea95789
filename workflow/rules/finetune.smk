# Train a LoRA adapter: one job a model with `adapter: finetune`.
# in:  train and dev dialogues
# out: MODEL/adapter/, MODEL/history.jsonl (loss by step), MODEL/metrics.json


rule finetune:
    input:
        train=PATHS.part("train"),
        dev=PATHS.part("dev"),
        labels=P.data.labels,
        talk=PATHS.talk(P.data.prompt),
        code=PATHS.code("finetune"),
    output:
        adapter=directory(PATHS.adapter("{model}")),
        history=PATHS.history("{model}"),
        metrics=PATHS.metrics("finetune", "{model}"),
        record=PATHS.record("finetune", "{model}"),
    log:
        PATHS.log("finetune", "{model}"),
    conda:
        "../../envs/gpu.yaml"
    threads: 8 * P.finetune.gpus
    resources:
        gres=f"gpu:{P.finetune.gpus}",
        mem_mb=lambda wildcards, attempt: 16000 * attempt * P.finetune.gpus,
        runtime=lambda wildcards, attempt: 240 * attempt,
    params:
        finetune=P.section("finetune"),
        prompt=P.data.prompt,
        model=lambda wildcards: P.section("models")[wildcards.model],
    shell:
        "python -m emplifai finetune --model {wildcards.model:q} 2>&1 | tee {log:q}"


rule all_finetune:
    input:
        [PATHS.metrics("finetune", model) for model in TUNED],
    output:
        PATHS.metrics("finetune"),
    log:
        PATHS.log("finetune"),
    conda:
        "../../envs/light.yaml"
    params:
        names=TUNED,
    shell:
        "python -m emplifai finetune --gather 2>&1 | tee {log:q}"
