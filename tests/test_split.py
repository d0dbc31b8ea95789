"""split: whole situations, exact shares, and places that do not move."""

import json
import random
import subprocess
from pathlib import Path

import pytest

from conftest import BIN, ROOT, environment
from emplifai import params, split, validate
from emplifai.errors import UserError
from emplifai.paths import Paths
from emplifai.records import Dialogue, file_sha256, read_json, read_jsonl

PARTS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> list[str]:
    """The lines of dialogues.jsonl of the embedded corpus."""
    out = tmp_path_factory.mktemp("validate")
    data = {"path": str(ROOT / "data/corpus"), "labels": str(ROOT / "data/labels.yaml")}
    validate.run(params.Params(data=data, models={"r": {"backend": "reference"}}), Paths(folders={"validate": out}))
    return (out / "dialogues.jsonl").read_text("utf-8").splitlines()


def run(lines: list[str], folder: Path, **settings) -> dict:
    """Split the lines; the manifest, after what always holds has been checked."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dialogues.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
    paths = Paths(folders={"validate": folder, "split": folder})
    split.run(params.Params(split=settings, models={"r": {"backend": "reference"}}), paths)
    manifest = read_json(folder / "manifest.json")
    seen: list[str] = []
    for part in PARTS:
        dialogues, said = list(read_jsonl(paths.part(part), Dialogue)), manifest["parts"][part]
        assert [d.dialogue_id for d in dialogues] == said["dialogues"]
        assert list(dict.fromkeys(d.situation_id for d in dialogues)) == said["situations"]
        assert file_sha256(paths.part(part)) == said["sha256"]
        seen += said["situations"]
    assert len(seen) == len(set(seen)), "a situation straddles"
    return manifest


def make(situation: str, emotion: str = "joy", dialogues: int = 2, text: str = "") -> list[str]:
    """Dialogues of a situation with words of their own."""
    rows = []
    for n in range(dialogues):
        draw = random.Random(f"{situation}-{n}")
        words = ["".join(draw.choices("あいうえおかきくけこさしすせそたちつてと", k=40)) for _ in range(2)]
        turns = [{"role": "patient", "text": text or words[0]}, {"role": "supporter", "text": words[1]}]
        row = {
            "dialogue_id": f"{situation}-{n}",
            "situation_id": situation,
            "emotion": emotion,
            "condition": None,
            "situation": "場面",
        }
        rows.append(json.dumps({**row, "turns": turns, "extra": {}}, ensure_ascii=False))
    return rows


def places(manifest: dict) -> dict[str, str]:
    return {s: part for part in PARTS for s in manifest["parts"][part]["situations"]}


def test_the_corpus_splits_exactly(corpus, tmp_path):
    manifest = run(corpus, tmp_path)
    counts = {part: manifest["parts"][part]["situations_by_emotion"] for part in PARTS}
    assert {len(c) for c in counts.values()} == {28}
    assert [set(counts[part].values()) for part in PARTS] == [{8}, {1}, {1}]
    assert [len(manifest["parts"][part]["dialogues"]) for part in PARTS] == [896, 112, 112]
    assert read_json(tmp_path / "metrics.json")["emotions_without_test"] == 0


def test_rows_may_be_shuffled(corpus, tmp_path):
    names = [f"{part}.jsonl" for part in PARTS] + ["manifest.json", "metrics.json"]
    run(corpus, tmp_path / "a", test_dialogues_per_situation=2)
    for seed in (1, 2):
        shuffled = corpus[:]
        random.Random(seed).shuffle(shuffled)
        run(shuffled, tmp_path / "b", test_dialogues_per_situation=2)
        for name in names:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_files_are_in_natural_order(tmp_path):
    manifest = run([line for n in range(1, 31) for line in make(f"joy-{n}", dialogues=12)], tmp_path)
    first = manifest["parts"]["train"]["dialogues"][:12]
    assert first == [f"{manifest['parts']['train']['situations'][0]}-{n}" for n in range(12)]


@pytest.mark.parametrize("names", [lambda n: f"joy-{n:02}", lambda n: f"場面{'甲乙丙丁戊己庚辛壬癸'[n % 10]}-{n // 10}x"])
def test_places_do_not_move_when_situations_are_added(tmp_path, names):
    situations = [names(n) for n in range(1, 61)]
    everything = places(run([line for s in situations for line in make(s)], tmp_path / "all"))
    for seed in range(4):
        some = random.Random(seed).sample(situations, 25)
        fewer = places(run([line for s in some for line in make(s)], tmp_path / str(seed)))
        assert fewer == {s: everything[s] for s in some}


@pytest.mark.parametrize("seed", [0, 1, 42, 1234])
@pytest.mark.parametrize(("dev", "test"), [(0.1, 0.1), (0.2, 0.1), (0.1, 0.3), (0.0, 0.5)])
def test_ten_numbered_situations_split_by_tenths(seed, dev, test):
    """Each emotion, and each full block of ten within it, has its exact share."""
    emotions = {f"{e}-{n:02}": e for e in ("joy", "fear", "grief") for n in range(1, 31)}
    sides = split.assign(emotions, {s: s for s in emotions}, params.Split(seed=seed, dev=dev, test=test))
    for emotion in ("joy", "fear", "grief"):
        for block in range(3):
            parts = [sides[f"{emotion}-{n:02}"] for n in range(block * 10 + 1, block * 10 + 11)]
            assert [parts.count("test"), parts.count("dev")] == [round(test * 10), round(dev * 10)]


def test_shares_of_ids_without_numbers_and_of_odd_shares():
    emotions = {f"{n}-x": "joy" for n in range(20000)}
    sides = list(split.assign(emotions, {s: s for s in emotions}, params.Split(dev=0.05, test=0.15)).values())
    assert abs(sides.count("test") / 20000 - 0.15) < 0.01 and abs(sides.count("dev") / 20000 - 0.05) < 0.01
    emotions = {f"joy-{n}": "joy" for n in range(1, 20001)}
    sides = list(split.assign(emotions, {s: s for s in emotions}, params.Split(dev=0.05, test=0.15)).values())
    assert abs(sides.count("test") / 20000 - 0.15) < 0.01 and abs(sides.count("dev") / 20000 - 0.05) < 0.01


def test_another_seed_is_another_split(corpus, tmp_path):
    drawn = [places(run(corpus, tmp_path / str(seed), seed=seed)) for seed in (1, 2)]
    assert sum(drawn[0][s] != drawn[1][s] for s in drawn[0]) > 50


def test_near_duplicates_stay_on_one_side(tmp_path):
    """Twins in other situations, one letter changed: each pair and each chain lies on one side, whatever the seed."""
    lines, groups = [], []
    for n in range(1, 31):
        rows = make(f"joy-{n:02}")
        lines += rows
        if n % 3 == 0:
            first = json.loads(rows[0])
            twin = {**first, "dialogue_id": f"twin-{n}", "situation_id": f"twin-{n}", "emotion": "fear"}
            words = first["turns"][0]["text"]
            twin["turns"] = [{"role": "patient", "text": words[:20] + "ん" + words[21:]}, first["turns"][1]]
            lines.append(json.dumps(twin, ensure_ascii=False))
            groups.append([f"joy-{n:02}", f"twin-{n}"])
    for seed in range(5):
        manifest = run(lines, tmp_path / str(seed), seed=seed, test=0.4, dev=0.2)
        where = places(manifest)
        assert all(len({where[s] for s in group}) == 1 for group in groups)
        assert manifest["joined_situations"] == groups
        shuffled = lines[:]
        random.Random(seed).shuffle(shuffled)
        assert run(shuffled, tmp_path / f"{seed}s", seed=seed, test=0.4, dev=0.2) == manifest
    apart = sum(
        len({split.assign(dict.fromkeys(g, "joy"), {s: s for s in g}, params.Split(seed=0, test=0.4))[s] for s in g}) > 1
        for g in groups
    )
    assert apart > 2, "the twins would straddle if they were not joined"


def test_a_cap_on_the_test_dialogues(corpus, tmp_path):
    all_, capped = run(corpus, tmp_path / "a"), run(corpus, tmp_path / "b", test_dialogues_per_situation=3)
    assert len(capped["parts"]["test"]["dialogues"]) == 28 * 3 and len(capped["left_out"]) == 28
    assert {*capped["parts"]["test"]["dialogues"], *capped["left_out"]} == {*all_["parts"]["test"]["dialogues"]}
    assert capped["parts"]["train"] == all_["parts"]["train"]
    assert len({name[-1] for name in capped["left_out"]}) > 1, "chosen by hash, not the last"


def test_an_emotion_without_test_is_told(tmp_path, capsys):
    run(make("alone") + [line for n in range(1, 11) for line in make(f"fear-{n:02}", "fear")], tmp_path, seed=3)
    position = split.position(3, "joy", "alone")
    assert position > 0.1
    assert "warning: no test situation for: joy" in capsys.readouterr().err
    assert read_json(tmp_path / "metrics.json")["emotions_without_test"] == 1


def test_no_test_dialogue_is_an_error_and_no_dev_no_fault(tmp_path, capsys):
    lines = [line for n in range(1, 11) for line in make(f"joy-{n:02}")]
    with pytest.raises(
        UserError, match=r"none of its 10 situations falls to test \(split.test 0\): there is nothing to evaluate"
    ):
        run(lines, tmp_path / "a", test=0)
    assert not (tmp_path / "a/train.jsonl").exists()
    run(lines, tmp_path / "b", dev=0)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no dialogues"),
        (make("a-1") + make("a-1"), "dialogue_id 'a-1-0' comes twice"),
        (make("a-1")[:1] + make("a-1", "fear")[1:], "situation 'a-1' has two emotions"),
        (["{}"], "no field 'dialogue_id'"),
    ],
)
def test_input_that_validate_did_not_write(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        run(lines, tmp_path)
    assert not (tmp_path / "train.jsonl").exists()


def test_the_command_runs_on_given_files(project, run):
    (project / "checked").mkdir()
    lines = [line for n in range(1, 21) for line in make(f"joy-{n}")]
    (project / "checked/dialogues.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")
    done = run("emplifai", "split", "--validate-dir", "checked", "--out", "parts")
    assert "train: 32 dialogues in 16 situations, dev: 4 dialogues in 2 situations, test: 4 dialogues in 2" in done.stdout
    names = {p.name for p in (project / "parts").iterdir()}
    assert names == {"train.jsonl", "dev.jsonl", "test.jsonl", "manifest.json", "metrics.json", "run.json"}


def test_hash_seeds_of_python_do_not_matter(tmp_path, corpus):
    (tmp_path / "dialogues.jsonl").write_text("".join(line + "\n" for line in corpus[:200]), "utf-8")
    (tmp_path / "params.yaml").write_text("models: {r: {backend: reference}}\n")
    for seed in ("1", "2"):
        call = [BIN / "emplifai", "split", "--validate-dir", ".", "--out", seed]
        subprocess.run(call, cwd=tmp_path, env=environment(PYTHONHASHSEED=seed), check=True, capture_output=True)
    for name in ("train.jsonl", "dev.jsonl", "test.jsonl", "manifest.json", "metrics.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
