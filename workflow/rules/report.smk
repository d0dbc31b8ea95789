# Write the page that shows it all.
# in:  metrics and tables of every stage, and the texts
# out: index.html, figures/


rule report:
    input:
        metrics=[PATHS.metrics(stage) for stage in STAGES if stage != "report"],
        tables=[PATHS.table(name) for name in ("items", "agreement", "systems")],
        replies=[PATHS.replies(model) for model in MODELS],
        histories=[PATHS.history(model) for model in TUNED],
        code=PATHS.code("report"),
    output:
        page=PATHS.page,
        figures=directory(PATHS.figures),
        metrics=PATHS.metrics("report"),
        record=PATHS.record("report"),
    log:
        PATHS.log("report"),
    conda:
        "../../envs/light.yaml"
    params:
        report=P.section("report"),
        models=P.section("models"),
        judges=P.section("judges"),
    shell:
        "python -m emplifai report 2>&1 | tee {log:q}"
