# Let a model answer the test dialogues: one job a model.
# in:  test dialogues; train dialogues for exemplars and retrieval; the adapter of a tuned model
# out: MODEL/reply.jsonl, MODEL/emotion.jsonl, MODEL/likelihood.jsonl (of the references), MODEL/metrics.json


rule generate:
    input:
        shards=lambda wildcards: marks("generate", wildcards.model, P.models[wildcards.model]),
        train=PATHS.part("train"),
        dev=PATHS.part("dev"),
        test=PATHS.part("test"),
        labels=P.data.labels,
        talk=PATHS.talk(P.data.prompt),
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
    wildcard_constraints:
        model=one_of(model for model in MODELS if P.models[model].uses_gpu),
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gres="gpu:1",
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        generate=P.section("generate"),
        prompt=P.data.prompt,
        model=lambda wildcards: P.section("models")[wildcards.model],
        part="",
    shell:
        "python -m emplifai generate --model {wildcards.model:q} {params.part} 2>&1 | tee {log:q}"


# With generate.shards above 1: jobs that fill the cache, from which the rule above then writes.
use rule generate as generate_shard with:
    input:
        train=PATHS.part("train"),
        dev=PATHS.part("dev"),
        test=PATHS.part("test"),
        labels=P.data.labels,
        talk=PATHS.talk(P.data.prompt),
        adapter=lambda wildcards: [PATHS.adapter(wildcards.model)] if wildcards.model in TUNED else [],
        code=PATHS.code("generate"),
    output:
        touch(PATHS.shard("generate", "{model}", "{shard}of{shards}")),
    log:
        PATHS.log("generate", "{model}.{shard}of{shards}"),
    params:
        generate=P.section("generate"),
        prompt=P.data.prompt,
        model=lambda wildcards: P.section("models")[wildcards.model],
        part=lambda wildcards: f"--shard {wildcards.shard}/{wildcards.shards}",


# The anchors, which take seconds, and models on a server: no job for the cluster.
use rule generate as generate_here with:
    wildcard_constraints:
        model=one_of(model for model in MODELS if not P.models[model].uses_gpu),
    threads: 1
    resources:
        mem_mb=4000,


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
