"""The report: what it says, that hostile texts stay texts, and that a real browser shows it well."""

import csv
import itertools
import json
import os
import re
from types import SimpleNamespace

import pytest
import yaml

import browser as chromium
import results_folder
from browser import resize, wait
from conftest import ROOT, tiny_params
from emplifai import beside_people, correlate, evidence, findings, report
from emplifai.paths import Paths
from emplifai.statistics.bootstrap import Interval
from emplifai.tables import Table, show

HOSTILE = {
    "script": "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">",
    "data": "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "bidi": "\u202eこれは逆\u2066向き",
    "long": "長" * 20_000,
    "empty": "",
    "template": "{{ 7 * 7 }} {% raw %} </style></script>",
    "control": "a\x00b\x1bc",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project with fabricated results of every stage and its report; the tuned model wrote hostile texts."""
    place = tmp_path_factory.mktemp("report")
    values = yaml.safe_load((ROOT / "params.yaml").read_text()) | {"report": {"title": "A <b>bold</b> title 題"}}
    params = results_folder.project(place, values)
    before = os.getcwd()
    os.chdir(place)
    try:
        results_folder.write(params, Paths(), emotions=6, hostile=HOSTILE)
        few = params.correlate.model_copy(update={"resamples": 100, "simulated_items": 8})
        correlate.run(params.model_copy(update={"correlate": few}), Paths())
        results_folder.record(params, Paths(), "correlate")  # of a known time
        report.run(params, Paths())
        yield place, params, evidence.read(params, Paths())
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def page(folder) -> str:
    return (folder[0] / "results/report/index.html").read_text("utf-8")


def test_verdict_comes_first_and_says_what_the_files_say(folder, page):
    _, _, run = folder
    change = findings.loss(run, "tuned", "base")
    assert show(change, 2, signed=True) in page
    assert page.index('id="verdict"') < page.index('id="data"') < page.index('id="samples"')
    assert change.high < -0.6 < change.low + 0.3  # the fabricated gain is 0.7 nats
    assert "Repeating the patient&#39;s own words scores highest of all" in page


def test_loss_is_a_ratio_of_sums_and_its_difference_is_paired(folder):
    _, _, run = folder
    rows = run.likelihoods["base"].values()
    assert findings.loss(run, "base").estimate == pytest.approx(sum(r["nats"] for r in rows) / sum(r["tokens"] for r in rows))
    change = findings.loss(run, "tuned", "base").estimate
    assert change == pytest.approx(findings.loss(run, "tuned").estimate - findings.loss(run, "base").estimate)


def test_what_a_guard_hides_counts_against_a_proxy(folder, page):
    """PMI alone puts base above people, its guarded score does not; a parrot is what the guard is for."""
    _, _, run = folder
    rows = {(r.criterion, r.model): r for r in findings.validity(run, "proxy")}
    row = rows["emotion_empathy", "base"]
    assert row.difference.estimate < 0 and row.unguarded == 0.2 and row.above_reference
    assert not rows["emotion_empathy", "retrieval"].above_reference and rows["emotion_empathy", "parrot"].unguarded is None
    assert not rows["empathy", "base"].above_reference
    assert "AUC without its guard" in page and "length alone" in page and "empathy head that never saw this kind" in page


def test_a_judge_that_puts_a_system_above_people_is_marked_invalid(folder, page):
    _, _, run = folder
    rows = findings.validity(run, "proxy")
    assert findings.invalid(rows)["empathy"] == ["parrot", "tuned"]
    by_hand = next(r for r in rows if (r.criterion, r.model) == ("empathy", "tuned"))
    people, tuned = (findings.judged(run, "proxy", m, "empathy") for m in ("reference", "tuned"))
    assert by_hand.reference_higher == pytest.approx(
        sum((people[i] > tuned[i]) + (people[i] == tuned[i]) / 2 for i in people) / len(people)
    )
    assert page.count("INVALID for comparing systems on empathy") == 1
    assert "empathy (invalid)" in page
    assert "No verdict on systems is drawn from these scores" in page


def test_a_proxy_is_never_called_an_llm_judge(page):
    assert "proxy (likelihood proxy)" in page
    assert "LLM judge" not in page


def test_simulated_raters_are_named_wherever_ratings_show(page):
    assert "Agreement with simulated raters (Spearman)" in page
    assert "come from simulated raters" in page
    assert "human raters" not in page
    agreement = page[page.index('id="agreement"') : page.index('id="samples"')]
    for caption in re.findall(r"<(?:figcaption|span)>([^<]*)</", agreement):
        assert "simulated raters" in caption


def test_the_anchors_stand_in_the_same_table_as_the_models(page):
    table = page[page.index("BERTScore of the replies, highest first") :]
    table = table[: table.index("</table>")]
    for model in ("parrot", "retrieval", "shuffled", "base", "tuned"):
        assert f'<th scope="row">{model}</th>' in table


def test_every_system_stands_on_every_measure_with_its_nulls(page):
    table = page[page.index("Systems by measure") : page.index('id="data"')]
    assert all(
        f"{name}</th>" in table for name in ("held-out loss", "null of accuracy", "null of F1", "proxy: empathy (invalid)")
    )
    assert "simulated raters: empathy" in table and table.count('scope="row"') == 2 * 7


def test_null_of_accuracy_is_the_mean_over_all_permutations():
    true, said = "aaab", "aabc"
    dialogues = {i: SimpleNamespace(emotion=label) for i, label in enumerate(true)}
    run = SimpleNamespace(test=dialogues, emotions={"m": {i: SimpleNamespace(label=label) for i, label in enumerate(said)}})
    orders = list(itertools.permutations(true))
    by_hand = sum(sum(a == b for a, b in zip(order, said, strict=True)) / 4 for order in orders) / len(orders)
    assert findings.accuracy_null(run, "m") == pytest.approx(by_hand) == pytest.approx(7 / 16)


def test_cost_is_summed_by_stage(folder):
    from emplifai import costs

    run = folder[2]
    stages, jobs = costs.tables(run)
    rows = {row[0]: row[1:] for row in stages.rows}
    assert rows["generate"][:2] == [7, 10.5] and rows["all"][0] == len(run.records) == len(jobs.rows)
    assert rows["all"][1] == pytest.approx(1.5 * len(run.records)) and rows["judge"][-1] is None  # a proxy costs no dollars


def test_metrics_are_flat_and_figures_come_as_svg_and_png(folder):
    place, _, _ = folder
    metrics = json.loads((place / "results/report/metrics.json").read_text())
    assert all(isinstance(v, int | float) for v in metrics.values())
    names = {p.stem for p in (place / "results/report/figures").iterdir()}
    assert {"emotions", "training", "bertscore", "judge-proxy", "agreement", "confusion-tuned"} <= names
    for name in names:
        assert (place / f"results/report/figures/{name}.svg").read_text().startswith("<?xml")
        assert (place / f"results/report/figures/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_judges_stand_beside_people_reply_by_reply(folder, page):
    """Clouds, Bland-Altman, emotions and systems of each judge; BERTScore has a scale of its own, so no differences."""
    place, _, run = folder
    names = {p.stem for p in (place / "results/report/figures").glob("*.svg")}
    wanted = {f"{kind}-{judge}" for kind in ("items", "emotions", "systems") for judge in ("proxy", "bertscore")}
    assert wanted <= names and "difference-proxy" in names and "difference-bertscore" not in names
    for name in {*wanted, "agreement", "difference-proxy"}:
        assert "simulated raters" in (place / f"results/report/figures/{name}.svg").read_text(), name
    ceiling = beside_people.find(run.agreement, criterion="empathy", level="raters", statistic="leave_one_out_spearman")
    figure = page[page.index("Agreement with the simulated raters, and its ceiling") - 9000 :]
    assert f"ceiling {show(beside_people.estimate(ceiling), 2)}" in figure
    human, judge = beside_people.pair(run, "proxy", "empathy")
    row = beside_people.find(run.agreement, criterion="empathy", judge="proxy", level="pooled", statistic="bias", group="")
    assert float(row["estimate"]) == pytest.approx((judge - human).mean())


def test_the_worst_disagreements_come_with_their_words(folder):
    _, _, run = folder
    (table,) = beside_people.worst(run, "proxy", "simulated raters")
    gaps = [abs(row[-1] - row[-2]) for row in table.rows]
    rated = [r for r in run.items if r["human_mean"] and r["judge_proxy"]]
    assert gaps == sorted(gaps, reverse=True) and len(table.rows) == beside_people.WORST
    assert gaps[0] == max(abs(float(r["judge_proxy"]) - float(r["human_mean"])) for r in rated)
    dialogue, system, *_ = table.rows[0]
    assert run.replies[system][dialogue].text[:20] in table.rows[0][5] and run.test[dialogue].patient[:20] in table.rows[0][4]


def test_same_inputs_same_bytes(folder):
    place, params, _ = folder
    first = {p: p.read_bytes() for p in (place / "results/report").rglob("*") if p.is_file() and p.name != "run.json"}
    report.run(params, Paths())
    assert first == {p: p.read_bytes() for p in first}


def test_without_a_japanese_font_figures_name_emotions_in_english(folder, monkeypatch):
    from emplifai import figures, sections

    monkeypatch.setattr(figures, "FONTS", ["No Such Font"])
    drawn = sections.emotion_counts(folder[2], folder[0] / "plain")
    assert "admiration" in drawn.svg and "称賛" not in drawn.svg


def test_a_run_without_tuned_model_and_judge_still_has_a_page(tmp_path, tiny_model, monkeypatch):
    values = tiny_params(tiny_model) | {
        "models": {"parrot": {"backend": "parrot"}, "gone": {"backend": "reference"}},
        "judges": {},
    }
    params = results_folder.project(tmp_path, values)
    monkeypatch.chdir(tmp_path)
    results_folder.write(params, Paths(), emotions=2)
    report.run(params, Paths())
    text = Paths().page.read_text("utf-8")
    assert 'id="bertscore"' in text and 'id="judges"' not in text and 'id="training"' not in text


def test_missing_results_are_named(run, project):
    done = run("emplifai", "report", ok=False)
    assert done.returncode == 2
    assert "results/split/train.jsonl: no such file; run the stage that writes it first" in done.stderr


def test_table_shows_intervals_and_writes_them_as_columns():
    table = Table("t", "T", ["system", "x"], [["a", Interval(0.5, 0.25, 0.75, 9, 3)], ["=1+1", None]], digits=2)
    assert table.shown() == [["a", "0.50 [0.25, 0.75]"], ["=1+1", "–"]]
    assert list(csv.reader(table.csv().splitlines())) == [
        ["system", "x", "x low", "x high"],
        ["a", "0.5", "0.25", "0.75"],
        ["'=1+1", "", "", ""],
    ]
    assert show(-0.12345, 2, signed=True) == "−0.12" and show(1234) == "1,234"


# In a real browser


@pytest.fixture(scope="module")
def browser():
    driver = chromium.start()
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def opened(browser, folder):
    browser.get((folder[0] / "results/report/index.html").as_uri())
    return browser


def test_no_console_error_and_no_request_to_any_host(opened):
    assert [line for line in opened.get_log("browser") if line["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(line["message"])["message"] for line in opened.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert asked and {url.split(":")[0] for url in asked} <= {"file", "data"}


def test_all_images_are_there_and_have_words(opened):
    sizes = opened.execute_script("return [...document.images].map(i => [i.naturalWidth, i.complete, i.alt.length])")
    assert len(sizes) >= 12  # each for a light and for a dark page
    assert all(width > 0 and complete and words > 20 for width, complete, words in sizes)


@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_is_wider_than_the_page(opened, width):
    resize(opened, width)
    assert opened.execute_script("return window.innerWidth") == width
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    wide = opened.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, .skip')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


VISIBLE = "return [...document.querySelectorAll('%s')].filter(e => e.checkVisibility()).length"


def choose(page, name: str, value: str) -> None:
    """As a reader does in the form above the samples."""
    set_value = "f = document.getElementById('filter'); f.elements[arguments[0]].value = arguments[1]"
    page.execute_script(f"{set_value}; f.dispatchEvent(new Event('input'))", name, value)


def test_samples_come_by_twenty_and_are_filtered_by_emotion_and_system(opened):
    resize(opened, 1400)
    assert opened.execute_script(VISIBLE % ".sample") == 20 == report.PAGE
    assert opened.find_element("id", "count").text == "20 of 24 dialogues"
    opened.execute_script("document.getElementById('more').click()")
    assert opened.execute_script(VISIBLE % ".sample") == 24
    assert opened.execute_script(VISIBLE % "#more") == 0
    choose(opened, "emotion", "anger")
    assert opened.find_element("id", "count").text == "4 of 4 dialogues"
    opened.find_element("css selector", "#filter [value=tuned]").send_keys(" ")  # by keyboard
    assert opened.execute_script(VISIBLE % "dd[data-model=tuned]") == 0
    assert opened.execute_script(VISIBLE % "dd[data-model=base]") == 4
    opened.find_element("css selector", "#filter [value=tuned]").send_keys(" ")
    choose(opened, "emotion", "")


def test_worst_disagreements_come_first(opened, folder):
    gap = findings.disagreement(folder[2])
    widest = sorted((gap(i) for i in folder[2].test), reverse=True)
    shown = "return [...document.querySelectorAll('.sample')].map(e => Number(e.dataset.gap))"
    choose(opened, "order", "gap")
    assert opened.execute_script(shown) == pytest.approx(widest[:20], abs=1e-3)
    choose(opened, "order", "")
    assert opened.execute_script(shown) != pytest.approx(widest[:20], abs=1e-3)
    choose(opened, "order", "gap")


def test_a_dark_page_prints_light_figures(opened):
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    for media, shown in (("screen", "dark"), ("print", "light")):
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": dark})
        assert opened.execute_script(VISIBLE % f"figure img.{shown}") >= 6
        assert opened.execute_script(VISIBLE % "figure img") == opened.execute_script(VISIBLE % f"figure img.{shown}")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_a_page_of_ten_thousand_samples_stays_usable(browser, folder, tmp_path):
    run = folder[2]
    rows = report.sample_rows(run)
    context = {"rated": True, "claims": [], "sections": [], "costs": [], "places": [], "commit": "0"}
    page = tmp_path / "many.html"
    many = (rows * 417)[:10_000]
    angry = sum(row["dialogue"].emotion == "anger" for row in many)
    page.write_text(report.render(run, context | {"samples": many}), "utf-8")
    browser.get(page.as_uri())
    wait(lambda: browser.find_element("id", "count").text == "20 of 10000 dialogues", "the page")
    choice = "f = document.getElementById('filter'); f.elements.emotion.value = 'anger'; const t = performance.now();"
    took = browser.execute_script(
        choice + "f.dispatchEvent(new Event('input')); document.body.offsetHeight; return performance.now() - t"
    )
    assert took < 1000 and browser.find_element("id", "count").text == f"20 of {angry} dialogues"
    browser.get((folder[0] / "results/report/index.html").as_uri())


def test_hostile_texts_are_shown_as_text_and_the_page_is_intact(opened):
    assert opened.title == "A <b>bold</b> title 題: report"
    assert opened.execute_script("return [...document.scripts].map(s => s.type)") == ["application/json", ""]
    opened.execute_script("document.getElementById('more').click()")
    texts = opened.execute_script("return [...document.querySelectorAll('dd[data-model=tuned] .said')].map(e => e.textContent)")
    for name in ("script", "data", "bidi", "long", "template"):
        assert HOSTILE[name] in texts, name
    assert "(empty)" in texts
    assert "a\ufffdb\ufffdc" in texts
    assert opened.find_elements("css selector", "footer")
    tall = opened.execute_script("return Math.max(...[...document.querySelectorAll('.said')].map(e => e.clientHeight))")
    assert tall < 320  # a text of 20,000 characters scrolls in its own box


def test_page_works_without_script_and_headings_are_in_order(page):
    assert '<form id="filter" class="filter" hidden>' in page  # nothing that does nothing is shown
    levels = [int(n) for n in re.findall(r"<h([1-6])", page)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert 'lang="ja"' in page and '<html lang="en">' in page


def contrast(one: str, two: str) -> float:
    """Contrast ratio of two #rrggbb colours, WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_have_contrast_in_light_and_dark():
    css = (ROOT / "workflow/emplifai/templates/report.css").read_text()
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part)) for part in css.split("@media screen", 1)[0:2])
    for colours in (light, dark):
        for ground in ("paper", "ground", "warn", "anchor", "tuned"):
            for ink in ("ink", "soft") if ground != "warn" else ("ink",):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for ink in ("link", "good", "bad"):
            assert contrast(colours[ink], colours["paper"]) >= 4.5 and contrast(colours[ink], colours["ground"]) >= 4.5
