# Let a judge rate all replies: one job a judge.
# in:  all replies; train and dev dialogues (the proxy is fitted on train and anchored on dev); test dialogues
# out: JUDGE/MODEL.jsonl, JUDGE/contrast.jsonl (references and worse replies), JUDGE/metrics.json


rule judge:
    input:
        replies=[PATHS.replies(model) for model in MODELS],
        parts=[PATHS.part(part) for part in ("train", "dev", "test")],
        labels=P.data.labels,
        code=PATHS.code("judge"),
    output:
        judgements=[PATHS.judgements("{judge}", model) for model in MODELS],
        contrasts=PATHS.contrasts("{judge}"),
        metrics=PATHS.metrics("judge", "{judge}"),
        record=PATHS.record("judge", "{judge}"),
    log:
        PATHS.log("judge", "{judge}"),
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gres=lambda wildcards: "gpu:1" if P.judges[wildcards.judge].uses_gpu else "",
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        judge=P.section("judge"),
        judge_model=lambda wildcards: P.section("judges")[wildcards.judge],
        models=MODELS,
    shell:
        "python -m emplifai judge --judge {wildcards.judge:q} 2>&1 | tee {log:q}"


rule all_judge:
    input:
        [PATHS.metrics("judge", judge) for judge in JUDGES],
    output:
        PATHS.metrics("judge"),
    log:
        PATHS.log("judge"),
    conda:
        "../../envs/light.yaml"
    params:
        names=JUDGES,
    shell:
        "python -m emplifai judge --gather 2>&1 | tee {log:q}"
