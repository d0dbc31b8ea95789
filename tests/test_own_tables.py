"""`emplifai correlate` on anyone's tables of ratings and judgements, without a project."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import environment
from csv_files import pick, rows, write

# Anyone's tables

R = "rater_id,dialogue_id,criterion,score"
J = "judge,dialogue_id,criterion,score"


def command(tmp_path: Path, *more: str, ok: bool = True) -> subprocess.CompletedProcess:
    call = [sys.executable, "-m", "emplifai", "correlate", "--ratings", "R.csv", "--judgements", "J.csv", "--out", "out", *more]
    done = subprocess.run(call, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode == 0) == ok, done.stderr
    return done


def test_command_needs_nothing_but_two_tables(tmp_path):
    scores = [(1, 2, 1), (2, 2, 3), (4, 5, 5), (3, 3, 2), (5, 4, 4)]
    write(tmp_path / "R.csv", R, [(f"r{k}", f"d{i}", "empathy", s[k]) for i, s in enumerate(scores) for k in range(2)])
    write(tmp_path / "J.csv", J, [("gpt", f"d{i}", "empathy", s[2]) for i, s in enumerate(scores)])
    command(tmp_path, "--scale", "1", "5", "--resamples", "200")
    table = rows(tmp_path / "out/agreement.csv")
    assert list(table[0]) == [
        "criterion", "judge", "by", "group", "level", "statistic", "reference", "n_items", "n_raters",
        "estimate", "ci_low", "ci_high", "p_value", "p_adjusted", "status",
    ]  # fmt: skip
    assert {row["level"] for row in table} == {"raters", "pooled"}
    # by hand: means 1.5 2 4.5 3 4.5, judge 1 3 5 2 4; bias (-.5+1+.5-1-.5)/5, mae 3.5/5
    assert float(pick(table, judge="gpt", statistic="bias")["estimate"]) == pytest.approx(-0.1)
    assert float(pick(table, judge="gpt", statistic="mae")["estimate"]) == pytest.approx(0.7)
    # by hand: lower medians 1 2 4 3 4, judge 1 3 5 2 4: sum of squared differences 3; of all pairs 5 * (7.4...) below
    x, y = np.array([1, 3, 5, 2, 4]), np.array([1, 2, 4, 3, 4])
    kappa = 1 - ((x - y) ** 2).mean() / np.subtract.outer(x, y).__pow__(2).mean()
    assert float(pick(table, judge="gpt", statistic="weighted_kappa")["estimate"]) == pytest.approx(kappa)
    assert pick(table, level="raters", statistic="icc_a1")["ci_low"] == ""  # two raters: no interval to be trusted
    row = pick(table, judge="gpt", statistic="spearman")
    assert (row["reference"], row["n_items"], row["n_raters"], row["status"]) == ("mean", "5", "2", "ok")


GOOD_R = [(f"r{k}", f"d{i}", "empathy", 1 + (i + k) % 5) for i in range(6) for k in range(2)]
GOOD_J = [("gpt", f"d{i}", "empathy", 1 + (i * 2) % 5) for i in range(6)]
BAD = {
    "wrong columns": ("who,dialogue_id,criterion,score", GOOD_R, J, GOOD_J, "R.csv: no column 'rater_id'"),
    "misspelt": (R.replace("score", "scores"), GOOD_R, J, GOOD_J, "is 'scores' meant?"),
    "swapped": (J, GOOD_J, R, GOOD_R, "R.csv: no column 'rater_id'"),
    "two columns": (R + ",score", [(*r, 1) for r in GOOD_R], J, GOOD_J, "R.csv: two columns 'score'"),
    "semicolons": (R.replace(",", ";"), [], J, GOOD_J, "R.csv: cells are separated by semicolons"),
    "more cells": (R, [(*r, 9) for r in GOOD_R], J, GOOD_J, "R.csv: rows have more cells than the header names (4)"),
    "one row longer": (R, [*GOOD_R, ("r1", "d9", "empathy", 3, 4)], J, GOOD_J, "R.csv: not CSV: "),
    "quote left open": (R, [*GOOD_R, ("r1", '"d9', "empathy", 3)], J, GOOD_J, "R.csv: not CSV: "),
    "text": (R, [*GOOD_R, ("r1", "d9", "empathy", "good")], J, GOOD_J, "row 14: score 'good' is not a number"),
    "true": (R, [*GOOD_R, ("r1", "d9", "empathy", "TRUE")], J, GOOD_J, "row 14: score 'TRUE' is not a number"),
    "decimal comma": (R, [*GOOD_R, ("r1", "d9", "empathy", '"3,5"')], J, GOOD_J, "row 14: score '3,5' is not a number"),
    "NaN": (R, GOOD_R, J, [*GOOD_J, ("gpt", "d9", "empathy", "NaN")], "row 8: score 'NaN' is not a number"),
    "NA": (R, [*GOOD_R, ("r1", "d9", "empathy", "NA")], J, GOOD_J, "row 14: score 'NA' is not a number"),
    "inf": (R, GOOD_R, J, [*GOOD_J, ("gpt", "d9", "empathy", "inf")], "row 8: score 'inf' is not a number"),
    "too large": (R, GOOD_R, J, [*GOOD_J, ("gpt", "d9", "empathy", "1e300")], "row 8: score '1e300' is beyond 1e+15"),
    "out of scale": (R, [*GOOD_R, ("r1", "d9", "empathy", 7)], J, GOOD_J, "row 14: score 7 is outside the scale 1 to 5"),
    "judge out of scale": (R, GOOD_R, J, [*GOOD_J, ("gpt", "d9", "empathy", 11)], "J.csv: row 8: score 11 is outside"),
    "duplicate": (R, [*GOOD_R, ("r1", "d0", "empathy", 3)], J, GOOD_J, "row 14: a second score of rater_id r1, dialogue_id d0"),
    "judged twice": (R, GOOD_R, J, [*GOOD_J, ("gpt", "d0", "empathy", 3)], "J.csv: row 8: a second score of judge gpt"),
    "no id": (R, [*GOOD_R, ("", "d0", "empathy", 3)], J, GOOD_J, "row 14: rater_id is empty"),
    "short row": (R, [*GOOD_R, ("r1", "d9")], J, GOOD_J, "row 14: criterion is empty"),
    "no overlap": (R, GOOD_R, J, [("gpt", f"x{i}", "empathy", 3) for i in range(6)], "no item in common"),
    "other criterion": (R, GOOD_R, J, [("gpt", f"d{i}", "fluency", 3) for i in range(6)], "Criteria of the ratings: empathy"),
    "no rows": (R, [], J, GOOD_J, "R.csv: no rows"),
    "no scores": (R, GOOD_R, J, [("gpt", f"d{i}", "empathy", "") for i in range(6)], "J.csv: no row has a score"),
    "one model column": (R, GOOD_R, J + ",model", [(*j, "m") for j in GOOD_J], "R.csv: no column 'model'"),
    "a model named mean": (
        R + ",model",
        [(*r, "mean") for r in GOOD_R],
        J + ",model",
        [(*j, "mean") for j in GOOD_J],
        "rename it",
    ),
    "two situations": (
        R + ",situation_id",
        [(*r, f"s{k}") for k, r in enumerate(GOOD_R)],
        J,
        GOOD_J,
        "dialogue d0, model '' has more than one situation_id",
    ),
    "no situation": (
        R + ",situation_id",
        [(*r, "s1" * (r[1] != "d3")) for r in GOOD_R],
        J,
        GOOD_J,
        "dialogue d3, model '' has no",
    ),
}
OPTIONS = {
    ("--scale", "5", "1"): "--scale LOW HIGH: two finite numbers that rise",
    ("--scale", "1", "inf"): "--scale LOW HIGH: two finite numbers that rise",
    ("--epsilon", "nan"): "--epsilon: from 0 to 1",
    ("--resamples", "10"): "--resamples: at least 100",
    ("--seed", "-1"): "--seed: 0 or more",
    ("--cluster", "nosuch"): "no column 'nosuch' to group by; there are: dialogue_id",
    ("--by", "score"): "no column 'score' to group by",
}
FILES = {
    "no such file": (None, "R.csv: no such file"),
    "empty": (b"", "R.csv: empty"),
    "another encoding": ("rater_id,é\n".encode("latin1"), "R.csv: neither UTF-8 nor Shift_JIS"),
    "UTF-16": (R.encode("utf-16"), "R.csv: UTF-16; save it as CSV in UTF-8"),
    "a picture": (bytes(range(256)) * 4, "R.csv: neither UTF-8 nor Shift_JIS"),
    "NUL": (R.encode() + b"\n\0", "R.csv: not a text file"),
}


def refused(capsys, *more: str) -> str:
    """The message with which the command refuses R.csv and J.csv."""
    from emplifai import cli

    assert cli.main(["correlate", "--ratings", "R.csv", "--judgements", "J.csv", "--out", "out", *more]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and not Path("out").exists()
    return error


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_get_one_clear_message(tmp_path, case, monkeypatch, capsys):
    header_r, lines_r, header_j, lines_j, message = BAD[case]
    write(tmp_path / "R.csv", header_r, lines_r)
    write(tmp_path / "J.csv", header_j, lines_j)
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys)


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_tables_are_refused(tmp_path, case, monkeypatch, capsys):
    content, message = FILES[case]
    if content is not None:
        (tmp_path / "R.csv").write_bytes(content)
    write(tmp_path / "J.csv", J, GOOD_J)
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys)


@pytest.mark.parametrize("option", OPTIONS)
def test_options_that_make_no_sense_are_refused(tmp_path, option, monkeypatch, capsys):
    write(tmp_path / "R.csv", R, GOOD_R)
    write(tmp_path / "J.csv", J, GOOD_J)
    monkeypatch.chdir(tmp_path)
    assert OPTIONS[option] in refused(capsys, *option)


def spread(rater: int, item: int) -> int:
    return 1 + (item + rater) % 5


STATUSES = {
    "one rater": (
        1,
        6,
        spread,
        lambda i: 1 + i * 2 % 5,
        {"krippendorff_ordinal": "one rater", "alt_test_advantage": "one rater"},
    ),
    "one item": (3, 1, spread, lambda i: 3, {"spearman": "too few items", "krippendorff_ordinal": "too few items"}),
    "constant judge": (
        3,
        6,
        spread,
        lambda i: 3,
        dict.fromkeys(["pearson", "spearman", "kendall_tau_b", "weighted_kappa", "icc_a1"], "constant judge"),
    ),
    "constant ratings": (
        3,
        6,
        lambda k, i: 2,
        lambda i: 1 + i % 5,
        {"pearson": "constant ratings", "weighted_kappa": "constant ratings", "krippendorff_ordinal": "constant ratings"},
    ),
    "nothing unrated": (3, 6, spread, lambda i: 1 + i % 5, {"ppi_mean": "no unrated items"}),
    "half points": (3, 6, spread, lambda i: 1.5 + i % 3, {"weighted_kappa": "not whole points"}),
    "own scale": (3, 6, spread, lambda i: 0.5 + i / 20, dict.fromkeys(["bias", "mae", "icc_a1"], "judge on its own scale")),
}


@pytest.mark.parametrize("case", STATUSES)
def test_what_is_undefined_is_empty_and_says_why(tmp_path, case, monkeypatch):
    from emplifai import cli

    people, items, rating, judge, expected = STATUSES[case]
    write(tmp_path / "R.csv", R, [(f"r{k}", f"d{i}", "empathy", rating(k, i)) for i in range(items) for k in range(people)])
    write(tmp_path / "J.csv", J, [("gpt", f"d{i}", "empathy", judge(i)) for i in range(items)])
    monkeypatch.chdir(tmp_path)
    assert cli.main(["correlate", "--ratings", "R.csv", "--judgements", "J.csv", "--out", "out", "--resamples", "100"]) == 0
    table = rows(Path("out/agreement.csv"))
    assert all((row["estimate"] == "") == (row["status"] != "ok") for row in table)
    for statistic, why in expected.items():
        found = [row for row in table if row["statistic"] == statistic and (row["judge"] or statistic.startswith("krip"))]
        assert [(row["estimate"], row["status"]) for row in found] == [("", why)], statistic


def test_levels_by_hand(tmp_path):
    """Two models: the judge ranks inside each backwards and the models rightly: pooled, within_model and system differ."""
    ratings = [("r1", f"d{i}", m, "empathy", s) for m, low in (("a", 1), ("b", 3)) for i, s in enumerate([low, low + 1, low + 2])]
    judged = [("gpt", f"d{i}", m, "empathy", s) for m, low in (("a", 1), ("b", 3)) for i, s in enumerate([low + 2, low + 1, low])]
    write(tmp_path / "R.csv", "rater_id,dialogue_id,model,criterion,score", ratings)
    write(tmp_path / "J.csv", "judge,dialogue_id,model,criterion,score", judged)
    command(tmp_path, "--resamples", "100")
    table = rows(tmp_path / "out/agreement.csv")
    within = pick(table, level="within_model", group="mean", statistic="spearman")
    assert (float(within["estimate"]), within["by"]) == (-1, "model")
    assert float(pick(table, level="within_model", group="a", statistic="kendall_tau_b")["estimate"]) == -1
    assert float(pick(table, level="pooled", statistic="pearson")["estimate"]) == pytest.approx(0.2)  # 2 of 10 in squares
    assert pick(table, level="system", statistic="spearman")["status"] == "too few systems"
    assert float(pick(table, level="system", statistic="bias")["estimate"]) == 0


def test_groups_samples_families_and_the_simulated_mark(tmp_path):
    rng = np.random.default_rng(0)
    ratings, judged = [], []
    for i in range(40):
        for m, family in (("m1", "f1"), ("m2", "f2"), ("m3", "f3")):
            q, emotion, length = rng.normal(), ("joy", "fear")[i % 2], int(rng.integers(5, 90))
            rest = (f"s{i // 2}", emotion, length)
            ratings += [(f"r{k}", f"d{i}", m, "empathy", point(q + rng.normal()), *rest[:2], "true") for k in range(5)]
            own = 2 * (family == "f1")
            judged += [("gpt", f"d{i}", m, "empathy", point(q + own), k, family, "f1", *rest) for k in range(2)]
            judged += [("other", f"d{i}", m, "empathy", point(q + length / 30 - 1.5), 0, family, "", *rest)]
    write(tmp_path / "R.csv", "rater_id,dialogue_id,model,criterion,score,situation_id,emotion,simulated", ratings)
    write(
        tmp_path / "J.csv",
        "judge,dialogue_id,model,criterion,score,sample,family,judge_family,situation_id,emotion,length",
        judged,
    )
    command(tmp_path, "--by", "emotion", "--resamples", "200")
    for name in ("agreement", "comparisons", "bias", "items", "systems"):
        assert {row["simulated"] for row in rows(tmp_path / f"out/{name}.csv")} == {"true"}, name
    verdict = json.loads((tmp_path / "out/verdict.json").read_text())
    assert verdict["simulated"] and "SIMULATED" in verdict["warning"]
    bias = rows(tmp_path / "out/bias.csv")
    favour = pick(bias, judge="gpt", statistic="self_preference")
    assert float(favour["ci_low"]) > 1 and float(favour["estimate"]) == pytest.approx(1.8, abs=0.5)
    longer = pick(bias, judge="other", statistic="length_effect")
    assert float(longer["ci_low"]) > 0 and pick(bias, judge="other", statistic="self_preference")["status"] == "family unknown"
    assert float(pick(bias, judge="gpt", statistic="retest_changed")["estimate"]) == 0
    assert {r["group"] for r in bias if r["statistic"] == "spearman_shrunken"} == {"joy", "fear", "mean"}
    compared = rows(tmp_path / "out/comparisons.csv")
    assert {row["level"] for row in compared} == {"pooled", "within_model", "within_cluster", "system"}
    apart = pick(compared, level="within_model", statistic="spearman")
    assert float(apart["difference"]) > 0.1 and float(apart["p_value"]) < 0.01


def test_five_raters_widen_the_interval_between_judges_too(tmp_path, monkeypatch):
    from emplifai import cli, comparisons

    rng, items = np.random.default_rng(3), range(50)
    quality = rng.normal(size=50)
    people = [(f"r{k}", f"d{i}", "empathy", point(quality[i] + rng.normal())) for i in items for k in range(5)]
    write(tmp_path / "R.csv", R, people)
    judged = [(f"j{k}", f"d{i}", "empathy", point(quality[i] + (1 + k) * rng.normal())) for i in items for k in range(2)]
    write(tmp_path / "J.csv", J, judged)
    monkeypatch.chdir(tmp_path)
    call = ["correlate", "--ratings", "R.csv", "--judgements", "J.csv", "--resamples", "200", "--out"]
    assert cli.main([*call, "with"]) == 0
    monkeypatch.setattr(comparisons, "raters_share", lambda *_: 1.0)
    assert cli.main([*call, "without"]) == 0
    wide, narrow = (pick(rows(Path(f"{name}/comparisons.csv")), statistic="spearman") for name in ("with", "without"))
    assert wide["difference"] == narrow["difference"] and wide["p_value"] == narrow["p_value"]
    assert float(wide["ci_low"]) < float(narrow["ci_low"]) and float(wide["ci_high"]) > float(narrow["ci_high"])


def point(value: float) -> int:
    return int(np.clip(np.rint(3 + value), 1, 5))


def test_unreliable_people_give_no_verdict(tmp_path):
    rng = np.random.default_rng(0)
    items = range(60)
    write(tmp_path / "R.csv", R, [(f"r{k}", f"d{i}", "empathy", rng.integers(1, 6)) for i in items for k in range(4)])
    write(tmp_path / "J.csv", J, [("gpt", f"d{i}", "empathy", rng.integers(1, 6)) for i in items])
    command(tmp_path, "--resamples", "200")
    found = json.loads((tmp_path / "out/verdict.json").read_text())["criteria"]["empathy"]
    assert found["people"]["share_at_highest_point"] < 0.5
    assert found["people"]["reliable"] == "no" and "nothing can be validated" in found["people"]["words"]
    assert found["judges"]["gpt"]["may_replace_a_rater"] == "no verdict"


@pytest.mark.parametrize(("noise", "answer"), [(0.4, "yes"), (4.0, "no")])
def test_a_good_judge_may_replace_a_rater_and_a_bad_one_not(tmp_path, noise, answer):
    rng = np.random.default_rng(1)
    quality = rng.normal(size=120)
    people = [(f"r{k}", f"d{i}", "empathy", point(q + 0.6 * rng.normal())) for i, q in enumerate(quality) for k in range(4)]
    write(tmp_path / "R.csv", R, people)
    write(tmp_path / "J.csv", J, [("gpt", f"d{i}", "empathy", point(q + noise * rng.normal())) for i, q in enumerate(quality)])
    command(tmp_path, "--resamples", "200")
    found = json.loads((tmp_path / "out/verdict.json").read_text())["criteria"]["empathy"]
    assert found["people"]["reliable"] == "yes"
    assert found["judges"]["gpt"]["may_replace_a_rater"] == answer, found["judges"]["gpt"]["words"]


def test_order_of_rows_does_not_matter(tmp_path):
    import random

    ratings = [(f"r{k}", f"d{i}", "empathy", 1 + (i * 3 + k) % 5) for i in range(20) for k in range(3)]
    judged = [("gpt", f"d{i}", "empathy", 1 + i % 5) for i in range(20)]
    texts = []
    for seed in (None, 1):
        for part in (ratings, judged) if seed else ():
            random.Random(seed).shuffle(part)
        write(tmp_path / "R.csv", R, ratings)
        write(tmp_path / "J.csv", J, judged)
        command(tmp_path, "--resamples", "100")
        texts.append([(tmp_path / f"out/{n}.csv").read_bytes() for n in ("agreement", "items", "bias", "systems", "comparisons")])
    assert texts[0] == texts[1]


def test_encodings_of_spreadsheets_are_read(tmp_path):
    ratings = "\n".join([R, *(f"田中{k},対話{i},共感,{1 + (i + k) % 5}" for i in range(6) for k in range(2))])
    (tmp_path / "R.csv").write_bytes(ratings.encode("cp932"))
    judged = "\n".join([J, *(f"審査,対話{i},共感,{1 + i % 5}" for i in range(6))])
    (tmp_path / "J.csv").write_bytes(judged.encode("utf-8-sig"))
    command(tmp_path, "--resamples", "100")
    assert pick(rows(tmp_path / "out/agreement.csv"), criterion="共感", judge="審査", statistic="spearman")["n_items"] == "6"


def test_a_judge_on_a_smaller_scale_is_compared_alike(tmp_path):
    """c is b on a scale of its own: every comparison with a must come out the same."""
    rng = np.random.default_rng(2)
    quality = rng.normal(size=60)
    near, far = ([point(q + noise * rng.normal()) for q in quality] for noise in (0.8, 1.8))
    write(
        tmp_path / "R.csv",
        R,
        [(f"r{k}", f"d{i}", "empathy", point(q + rng.normal())) for i, q in enumerate(quality) for k in (1, 2)],
    )
    judges = {"a": near, "b": far, "c": [score / 10 for score in far]}
    write(tmp_path / "J.csv", J, [(name, f"d{i}", "empathy", s) for name, scores in judges.items() for i, s in enumerate(scores)])
    command(tmp_path, "--resamples", "500")
    table = rows(tmp_path / "out/comparisons.csv")
    for statistic in ("pearson", "spearman"):
        b, c = (pick(table, judge_a="a", judge_b=other, statistic=statistic) for other in "bc")
        assert 0.001 < float(b["p_value"]) < 0.9
        for column in ("difference", "ci_low", "ci_high", "p_value", "williams_p"):
            assert float(b[column]) == pytest.approx(float(c[column]), abs=1e-9), column
