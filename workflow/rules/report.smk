# Write the page that shows it all.
# in:  metrics, tables and run.json of every stage, and the texts
# out: index.html, figures/, tables/


rule report:
    input:
        metrics=[PATHS.metrics(stage) for stage in STAGES if stage != "report"],
        records=[PATHS.record(stage) for stage in ("validate", "split", "bertscore", "correlate")],
        parts=[PATHS.part(part) for part in ("train", "dev", "test")],
        rejects=PATHS.rejects,
        tables=[PATHS.table(name) for name in ("items", "agreement", "comparisons", "bias", "systems")],
        verdict=PATHS.verdict,
        replies=[PATHS.replies(model, task) for model in MODELS for task in ("reply", "emotion")],
        likelihoods=[PATHS.likelihood(model) for model in MODELS],
        histories=[PATHS.history(model) for model in TUNED],
        scores=[PATHS.scores(model) for model in MODELS],
        judgements=[PATHS.judgements(judge, model) for judge in JUDGES for model in MODELS],
        audits=[PATHS.audit_table(judge) for judge in JUDGES],
        labels=P.data.labels,
        code=PATHS.code("report"),
        templates=PATHS.templates,
    output:
        page=report(PATHS.page, caption="../report/page.rst", category="Report"),
        figures=report(
            directory(PATHS.figures),
            patterns=["{name}.svg"],
            caption="../report/figures.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
        tables=directory(PATHS.page_tables),
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
