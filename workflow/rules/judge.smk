# Let a judge rate all replies: one job a judge.
# in:  all replies; train and dev dialogues (the proxy is fitted on train and anchored on dev); test dialogues
# out: JUDGE/MODEL.jsonl, JUDGE/contrast.jsonl (references and worse replies), JUDGE/pairs.jsonl (of two replies the better),
#      JUDGE/audit.csv and audit.jsonl (probes of which the right order is known), JUDGE/metrics.json


rule judge:
    input:
        shards=lambda wildcards: marks("judge", wildcards.judge, P.judges[wildcards.judge]),
        replies=[PATHS.replies(model) for model in MODELS],
        parts=[PATHS.part(part) for part in ("train", "dev", "test")],
        labels=P.data.labels,
        wordings=PATHS.wordings,
        code=PATHS.code("judge"),
    output:
        judgements=[PATHS.judgements("{judge}", model) for model in MODELS],
        contrasts=PATHS.contrasts("{judge}"),
        pairs=PATHS.pairs("{judge}"),
        audit=PATHS.audit_table("{judge}"),
        probes=PATHS.audit_table("{judge}").with_suffix(".jsonl"),
        metrics=PATHS.metrics("judge", "{judge}"),
        record=PATHS.record("judge", "{judge}"),
    log:
        PATHS.log("judge", "{judge}"),
    wildcard_constraints:
        judge=one_of(judge for judge in JUDGES if P.judges[judge].uses_gpu),
    conda:
        "../../envs/gpu.yaml"
    threads: 8
    resources:
        gres="gpu:1",
        mem_mb=lambda wildcards, attempt: 16000 * attempt,
        runtime=lambda wildcards, attempt: 120 * attempt,
    params:
        judge=P.section("judge"),
        prompt=P.data.prompt,
        judge_model=lambda wildcards: P.section("judges")[wildcards.judge],
        models=MODELS,
        part="",
    shell:
        "python -m emplifai judge --judge {wildcards.judge:q} {params.part} 2>&1 | tee {log:q}"


# With judge.shards above 1: jobs that fill the cache, from which the rule above then writes.
use rule judge as judge_shard with:
    input:
        replies=[PATHS.replies(model) for model in MODELS],
        parts=[PATHS.part(part) for part in ("train", "dev", "test")],
        labels=P.data.labels,
        wordings=PATHS.wordings,
        code=PATHS.code("judge"),
    output:
        touch(PATHS.shard("judge", "{judge}", "{shard}of{shards}")),
    log:
        PATHS.log("judge", "{judge}.{shard}of{shards}"),
    params:
        judge=P.section("judge"),
        prompt=P.data.prompt,
        judge_model=lambda wildcards: P.section("judges")[wildcards.judge],
        models=MODELS,
        part=lambda wildcards: f"--shard {wildcards.shard}/{wildcards.shards}",


# A judge on a server: its cap on requests at once is judge.max_in_flight, and the nodes may have no network.
use rule judge as judge_here with:
    wildcard_constraints:
        judge=one_of(judge for judge in JUDGES if not P.judges[judge].uses_gpu),
    threads: 1
    resources:
        mem_mb=4000,


rule all_judge:
    input:
        metrics=[PATHS.metrics("judge", judge) for judge in JUDGES],
        judgements=[PATHS.judgements(judge, model) for judge in JUDGES for model in MODELS],
        test=PATHS.part("test"),
    output:
        PATHS.metrics("judge"),
    log:
        PATHS.log("judge"),
    conda:
        "../../envs/light.yaml"
    params:
        names=JUDGES,
        criteria=P.judge.criteria,
    shell:
        "python -m emplifai judge --gather 2>&1 | tee {log:q}"
