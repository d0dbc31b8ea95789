# Let a model answer the test dialogues: one job a model.
# in:  test dialogues; train dialogues for exemplars and retrieval; the adapter of a tuned model
# out: MODEL/reply.jsonl, MODEL/emotion.jsonl, MODEL/likelihood.jsonl (of the references), MODEL/metrics.json


rule generate:
    input:
        train=PATHS.part("train"),
        dev=PATHS.part("dev"),
        test=PATHS.part("test"),
        labels=P.data.labels,
        adapter=lambda wildcards: [PATHS.adapter(wildcards.model)] if wildcards.model in TUNED else [],
        code=PATHS.code("generate"),
    output:
        reply=PATHS.replies("{model}"),
        emotion=PATHS.replies("{model}", "emotion"),
        likelihood=PATHS.likelihood("{model}"),
        metrics=PATHS.metrics("generate", "{model}"),
        record=PATHS.record("generate", "{model}"),
    log:
        PATHS.log("generate", "{model}"),
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gres=lambda wildcards: "gpu:1" if P.models[wildcards.model].uses_gpu else "",
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        generate=P.section("generate"),
        model=lambda wildcards: P.section("models")[wildcards.model],
    shell:
        "python -m emplifai generate --model {wildcards.model:q} 2>&1 | tee {log:q}"


rule all_generate:
    input:
        [PATHS.metrics("generate", model) for model in MODELS],
    output:
        PATHS.metrics("generate"),
    log:
        PATHS.log("generate"),
    conda:
        "../../envs/light.yaml"
    params:
        names=MODELS,
    shell:
        "python -m emplifai generate --gather 2>&1 | tee {log:q}"
