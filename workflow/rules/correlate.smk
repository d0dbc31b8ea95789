# Compare judges and BERTScore with human ratings.
# in:  all judgements, pairs and scores; human ratings in data/ratings (simulated raters if there are none)
# out: items.csv, agreement.csv, comparisons.csv, bias.csv, systems.csv, verdict.json, metrics.json


rule correlate:
    input:
        judgements=[PATHS.judgements(judge, model) for judge in JUDGES for model in MODELS],
        pairs=[PATHS.pairs(judge) for judge in JUDGES],
        scores=[PATHS.scores(model) for model in MODELS],
        replies=[PATHS.replies(model) for model in MODELS],
        test=PATHS.part("test"),
        ratings=rating_files(P.data.ratings),
        code=PATHS.code("correlate"),
    output:
        tables=report(
            [PATHS.table(name) for name in ("items", "agreement", "comparisons", "bias", "systems")],
            caption="../report/agreement.rst",
            category="Tables",
        ),
        verdict=PATHS.verdict,
        metrics=PATHS.metrics("correlate"),
        record=PATHS.record("correlate"),
    log:
        PATHS.log("correlate"),
    conda:
        "../../envs/light.yaml"
    params:
        correlate=P.section("correlate"),
        ratings=str(P.data.ratings),
        models={name: model.family for name, model in P.models.items()},
        judges={name: judge.family for name, judge in P.judges.items()},
    shell:
        "python -m emplifai correlate 2>&1 | tee {log:q}"
