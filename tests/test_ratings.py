"""Drawing a rating study: balance, orders, privacy of its files, faults of a draw and of its instructions."""

import json
import random
import shutil
import stat
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import ROOT, runner
from emplifai.errors import UserError
from emplifai.records import Dialogue, Question, Turn
from emplifai.study import sampling
from rating_study import draw, emplifai, make

# ---- the draw


def questions(emotions: int = 4, models: int = 3, dialogues: int = 5) -> list[Question]:
    def dialogue(e: int, d: int) -> Dialogue:
        return Dialogue(f"d{e}-{d}", f"s{e}-{d}", f"e{e}", None, "", [Turn("patient", "p"), Turn("supporter", "s")])

    return [
        Question(dialogue(e, d), f"m{m}", f"{e} {m} {d}")
        for e in range(emotions)
        for d in range(dialogues)
        for m in range(models)
    ]


@pytest.mark.parametrize("emotions,models,count", [(4, 3, 10), (6, 4, 17), (28, 7, 40), (28, 7, 196), (5, 5, 13), (1, 4, 6)])
def test_the_draw_is_balanced_over_emotions_and_models(emotions, models, count):
    drawn = sampling.draw(questions(emotions, models), count, 1)
    assert len({(q.dialogue.dialogue_id, q.model) for q in drawn}) == count
    for of, kinds in ((lambda q: q.dialogue.emotion, emotions), (lambda q: q.model, models)):
        counts = Counter(map(of, drawn))
        assert len(counts) == min(kinds, count)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_draw_depends_on_the_seed_and_not_on_the_order_of_the_data():
    one, other = questions(), questions()
    random.Random(3).shuffle(other)
    names = [
        [(q.dialogue.dialogue_id, q.model) for q in sampling.draw(rows, 20, seed)]
        for rows, seed in ((one, 1), (other, 1), (one, 2))
    ]
    assert names[0] == names[1] != names[2]
    assert len(sampling.draw(one, 60, 1)) == 60
    with pytest.raises(UserError, match="there are 60 replies"):
        sampling.draw(one, 61, 1)


@pytest.mark.parametrize("items,raters,k", [(40, 5, 5), (40, 5, 3), (41, 7, 2), (9, 4, 1)])
def test_every_reply_has_k_raters_and_every_rater_the_same_load(items, raters, k):
    given = sampling.assign([f"m{i % 3}" for i in range(items)], [f"r{r}" for r in range(raters)], k, 5)
    assert Counter(n for numbers in given.values() for n in numbers) == dict.fromkeys(range(items), k)
    loads = [len(set(numbers)) for numbers in given.values()]
    assert sum(loads) == items * k and max(loads) - min(loads) <= 1


def test_orders_are_random_and_hold_copies_far_from_their_originals_and_checks():
    orders = [sampling.order(range(60), rater, 0.1, 1) for rater in ("r1", "r2")]
    assert [e for e in orders[0] if e.kind == "item"] != [e for e in orders[1] if e.kind == "item"]
    for order in orders:
        place = {entry: k for k, entry in enumerate(order)}
        assert len(place) == len(order) == 60 + 6 + 3
        copies = [e for e in order if e.kind == "repeat"]
        assert len(copies) == 6
        assert all(place[e] - place[sampling.Entry("item", e.number)] >= 20 for e in copies)
        checks = [k for k, e in enumerate(order) if e.kind == "check"]
        assert all(b - a > 1 for a, b in pairwise(checks)) and checks[0] > 0


# ---- a project


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("rating"))


def test_a_project_is_private_blind_and_the_same_for_a_seed(folder):
    one, tokens = draw(folder, "one", "--raters", "3", "--items", "12", "--per-item", "2", "--seed", "7")
    two, _ = draw(folder, "two", "--raters", "3", "--items", "12", "--per-item", "2", "--seed", "7")
    assert list(tokens) == ["r01", "r02", "r03"] and len(set(tokens.values())) == 3
    assert all(stat.S_IMODE(p.stat().st_mode) & 0o077 == 0 for p in [one, *one.iterdir()])
    keys = [json.loads((p / "key.json").read_text()) for p in (one, two)]
    designs = [json.loads((p / "design.json").read_text()) for p in (one, two)]
    named = [
        {r: [key["items"][i] for i in order] for r, order in design["orders"].items()}
        for key, design in zip(keys, designs, strict=True)
    ]
    assert named[0] == named[1]
    assert not set(keys[0]["items"]) & set(keys[1]["items"])  # ids under another secret
    shown = (one / "design.json").read_text() + (one / "instructions.yaml").read_text()
    assert "xylophone" not in shown and "dlg-" not in shown
    stored = b"".join(p.read_bytes() for p in one.iterdir())
    assert not any(token.encode() in stored for token in tokens.values())


def test_git_keeps_a_project_to_itself_and_dvc_does_not_watch_it(tmp_path):
    project, run = tmp_path, runner(tmp_path)
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, project)
    make_files = ["study-01/ratings.sqlite", "study-01/key.json", "study-01/design.json", "study-01/instructions.yaml", "a.csv"]
    for name in make_files:
        (project / "data/ratings" / name).parent.mkdir(exist_ok=True, parents=True)
        (project / "data/ratings" / name).write_text("x")
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    done = run("git", "check-ignore", *(f"data/ratings/{name}" for name in make_files), ok=None)
    assert done.stdout.split() == [f"data/ratings/{name}" for name in make_files[:3]]
    done = run("dvc", "check-ignore", *(f"data/ratings/{name}" for name in make_files), ok=None)
    assert done.stdout.split() == [f"data/ratings/{name}" for name in make_files[:4]]


BAD = {
    "--raters 2 --items 4 --per-item 3": "--per-item 3: allowed: 1 to 2",
    "--raters 2 --items 4 --repeat 0.5": "--repeat 0.5: allowed: 0 to 0.33",
    "--raters 0 --items 4": "at least 1",
    "--raters 2 --items 4000": "replies to draw from",
    "--raters 2 --items 4 --models nobody": "no model 'nobody'",
    "--raters 2 --items 4 --out data": "there is something already",
}


@pytest.mark.parametrize("arguments,message", BAD.items())
def test_faults_of_a_draw_are_named(folder, arguments, message):
    done = emplifai(folder, "new", *arguments.split(), ok=False)
    assert done.returncode == 2 and message in done.stderr


def test_only_tls_or_a_proxy_opens_the_page_to_other_machines(folder):
    project, _ = draw(folder, "hosts", "--raters", "1", "--items", "3")
    done = emplifai(folder, "serve", project, "--host", "0.0.0.0", ok=False)
    assert done.returncode == 2 and "--tls-cert" in done.stderr
    done = emplifai(folder, "serve", project, "--tls-cert", "a.pem", ok=False)
    assert "both or neither" in done.stderr
    done = emplifai(folder, "serve", project, "--tls-cert", "a.pem", "--tls-key", "params.yaml", ok=False)
    assert "a.pem: no such file" in done.stderr
    (project / "design.json").write_text((project / "design.json").read_text() + " ")
    assert "changed since the project was drawn" in emplifai(folder, "serve", project, ok=False).stderr


def test_the_newest_project_is_served_and_faults_of_instructions_are_named(folder):
    project, _ = draw(folder, "newest", "--raters", "1", "--items", "3")
    text = (project / "instructions.yaml").read_text("utf-8")
    (project / "instructions.yaml").write_text(text.replace("  refuse: 同意しない\n", "").replace("    3: ", "    7: "), "utf-8")
    done = emplifai(folder, "serve", ok=False)
    assert done.returncode == 2
    assert f"{project.relative_to(folder)}/instructions.yaml: no text consent.refuse" in done.stderr
    assert done.stderr.count("no text criteria.") == 3 and "criteria.empathy.anchors.3" in done.stderr
    (project / "instructions.yaml").write_text("a: [", "utf-8")
    assert "not YAML" in emplifai(folder, "serve", project, ok=False).stderr
    assert "no rating project" in emplifai(folder, "serve", folder / "data", ok=False).stderr
