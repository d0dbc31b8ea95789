# Score all answers against the reference: one job, so that each text is encoded once.
# in:  all replies and emotions; test dialogues
# out: MODEL.jsonl, emotions.csv (by emotion), confusion.csv (emotion task), metrics.json


rule bertscore:
    input:
        shards=marks("bertscore"),
        replies=[PATHS.replies(model) for model in MODELS],
        emotions=[PATHS.replies(model, "emotion") for model in MODELS],
        train=PATHS.part("train"),
        test=PATHS.part("test"),
        labels=P.data.labels,
        code=PATHS.code("bertscore"),
    output:
        scores=[PATHS.scores(model) for model in MODELS],
        tables=[PATHS.score_table(name) for name in ("emotions", "confusion")],
        metrics=PATHS.metrics("bertscore"),
        record=PATHS.record("bertscore"),
    log:
        PATHS.log("bertscore"),
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gres="gpu:1",
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 60 * attempt,
    params:
        bertscore=P.section("bertscore"),
        models=MODELS,
        part="",
    shell:
        "python -m emplifai bertscore {params.part} 2>&1 | tee {log:q}"


# With bertscore.shards above 1: jobs that fill the cache, from which the rule above then writes.
use rule bertscore as bertscore_shard with:
    input:
        replies=[PATHS.replies(model) for model in MODELS],
        emotions=[PATHS.replies(model, "emotion") for model in MODELS],
        train=PATHS.part("train"),
        test=PATHS.part("test"),
        labels=P.data.labels,
        code=PATHS.code("bertscore"),
    output:
        touch(PATHS.shard("bertscore", "", "{shard}of{shards}")),
    log:
        PATHS.log("bertscore", "bertscore.{shard}of{shards}"),
    params:
        bertscore=P.section("bertscore"),
        models=MODELS,
        part=lambda wildcards: f"--shard {wildcards.shard}/{wildcards.shards}",
