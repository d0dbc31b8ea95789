"""validate: every form of data, every fault with its message, and memory that does not grow with the file."""

import json
import shutil
import subprocess
import sys

import pytest

from conftest import BIN, ROOT, environment
from dialogue_files import FLAT, GOOD, PATIENT, REPLY, check, dialogue, turns, write
from emplifai import duplicates, labels, params
from emplifai.checks import Checker
from emplifai.japanese import fold


def test_the_embedded_corpus_is_good(tmp_path):
    dialogues, rejects, metrics, error = check(
        ROOT / "data/corpus", tmp_path, situations_per_emotion=10, dialogues_per_situation=4
    )
    assert (len(dialogues), rejects, error) == (1120, [], None)
    assert (metrics["situations"], metrics["emotions"], metrics["near_duplicates"], metrics["shared_texts"]) == (280, 28, 0, 0)
    assert metrics["normalized_texts"] == 0
    line = json.loads((ROOT / "data/corpus/joy.jsonl").read_text("utf-8").splitlines()[0])
    joy = {d.dialogue_id: d for d in dialogues if d.situation_id == "joy-01"}
    assert list(joy) == [f"joy-01-{i}" for i in (1, 2, 3, 4)]
    assert [joy["joy-01-2"].patient, joy["joy-01-2"].reference] == line["dialogues"][1]
    assert [d.extra for d in joy.values()] == [{"contrast": line["contrast"]}, {}, {}, {}]


FAULTS = [
    (dialogue(dialogue_id=None), "dialogue_id: missing"),
    (dialogue(dialogue_id=["a"]), "dialogue_id: text is wanted, found a list"),
    (dialogue(dialogue_id="a\nb"), "dialogue_id: an id has 1 to 200 printable characters"),
    ({k: v for k, v in GOOD.items() if k != "situation_id"}, "situation_id: missing"),
    (dialogue(emotion="joi"), "emotion: 'joi' is none of the 28 labels; did you mean 'joy'?"),
    (dialogue(emotion=3), "emotion: text is wanted, found a number"),
    (dialogue(situation=""), "situation: empty"),
    (dialogue(situation=" \u3000"), "situation: empty"),
    (dialogue(situation=12), "situation: text is wanted, found a number"),
    (dialogue(turns=turns(patient="\u200b\ufeff \u200b")), "turns[0].text: empty"),
    (
        dialogue(turns=[{"speaker": "patient", "text": PATIENT}]),
        "turns[0]: {role, text} is wanted, found an object with 'speaker', 'text'",
    ),
    (dialogue(condition=True), "condition: text is wanted, found true or false"),
    (dialogue(turns=None), "patient: missing"),
    (dialogue(turns="はい"), "turns: a list of {role, text} is wanted, found text"),
    (dialogue(turns=[]), "turns: 0; allowed: 2 to 20"),
    (dialogue(turns=turns()[:1]), "turns: 1; allowed: 2 to 20"),
    (dialogue(turns=turns() * 11), "turns: 22; allowed: 2 to 20"),
    (dialogue(turns=["はい", "いいえ"]), "turns[0]: {role, text} is wanted, found text"),
    (dialogue(turns=turns()[::-1]), "turns[0].role: supporter, but patient and supporter take turns"),
    (dialogue(turns=turns() + turns()[:1]), "turns[2].role: patient, but the supporter has the last word"),
    (dialogue(turns=[*turns(), turns()[1], turns()[1]]), "turns[2].role: supporter, but patient and supporter take turns"),
    (dialogue(turns=[{"role": "doctor", "text": PATIENT}, turns()[1]]), "turns[0].role: 'doctor' is not allowed"),
    (dialogue(turns=turns(patient="")), "turns[0].text: empty"),
    (dialogue(turns=turns(supporter="あ" * 2001)), "turns[1].text: 2001 characters, more than validate.max_characters (2000)"),
    (dialogue(turns=turns(supporter="I am so glad to hear that.")), "turns[1].text: not in Japanese"),
    (dialogue(turns=turns(patient="今天我很高兴因为检查结果非常好医生也说可以继续这样治疗")), "turns[0].text: not in Japanese"),
    (dialogue(turns=turns(patient=PATIENT + "\ufffd")), "turns[0].text: holds U+FFFD; was the file read in the right encoding?"),
    (
        dialogue(turns=turns(patient=PATIENT + "連絡は090-1234-5678まで")),
        "turns[0].text: telephone number (validate.personal_data",
    ),
    (dialogue(extra=[1]), "extra: an object is wanted, found a list"),
    (dialogue(contrast="x"), "contrast: an object {kind: reply} is wanted, found text"),
    ({**dialogue(), "患者ID": 12345}, "患者ID: patient id"),
    ("{not json", "not JSON"),
    ('{"a": NaN}', "not JSON: NaN is no JSON number"),
    ("[1, 2]", "a JSON object is wanted, found list"),
    ("[" * 100000, "not JSON"),
    ({**GOOD, "turns": [], "dialogues": []}, "dialogues: empty"),
    ({"situation_id": "b-01", "emotion": "joy", "situation": GOOD["situation"], "dialogues": [[PATIENT]]}, "turns: 1; allowed"),
]


@pytest.mark.parametrize(("row", "message"), FAULTS, ids=[f"{i}: {m[:40]}" for i, (_, m) in enumerate(FAULTS)])
def test_each_fault_has_its_message_with_file_and_line(tmp_path, row, message):
    path = write(tmp_path / "d.jsonl", [dialogue(dialogue_id="ok", turns=turns("おはよう。", "おはよう。")), row])
    good, rejects, metrics, error = check(path, tmp_path / "out")
    assert [d.dialogue_id for d in good] == ["ok"]
    assert [(r["file"], r["line"]) for r in rejects] == [(str(path), 2)]
    assert any(message in reason for reason in rejects[0]["reasons"]), rejects[0]["reasons"]
    assert any(f.startswith(f"{path}:2: ") and message in f for f in error.faults)
    assert metrics["rejected"] == 1
    assert PATIENT not in str(error)


def test_an_id_writes_no_escape_sequence_to_the_terminal(tmp_path):
    *_, error = check(write(tmp_path / "d.jsonl", [dialogue(dialogue_id="a\x1b[31m")]), tmp_path / "out")
    assert "\x1b" not in str(error) and "'a\\x1b[31m': dialogue_id: an id has" in str(error)


def test_a_lone_surrogate_is_a_fault_and_no_crash(tmp_path):
    path = write(tmp_path / "d.jsonl", [GOOD, json.dumps(dialogue(dialogue_id="x", situation="\ud800あ"))])
    _, rejects, _, _ = check(path, tmp_path / "out")
    assert "holds U+D800" in rejects[0]["reasons"][0]


def test_all_faults_of_a_row_at_once(tmp_path):
    row = {
        "dialogue_id": "x",
        "emotion": "glad",
        "situation": "",
        "turns": turns(patient="", supporter="Hello, how are you today?"),
    }
    _, rejects, _, error = check(write(tmp_path / "d.jsonl", [row]), tmp_path / "out")
    fields = [r.split(":")[0] for r in rejects[0]["reasons"]]
    assert fields == ["situation_id", "emotion", "situation", "turns[0].text", "turns[1].text"]
    assert len(error.faults) == 6  # and the share


def test_twenty_faults_on_the_terminal_all_in_the_file(tmp_path):
    path = write(tmp_path / "d.jsonl", [dialogue(dialogue_id=f"x-{i}", emotion="?") for i in range(50)])
    _, rejects, metrics, error = check(path, tmp_path / "out")
    assert (len(rejects), metrics["rejected.emotion"]) == (50, 50)
    assert error.faults[20] == f"and 30 more in {tmp_path}/out/rejects.jsonl" and len(error.faults) == 22


def test_bytes_that_are_not_utf8(tmp_path):
    path = write(tmp_path / "d.jsonl", [GOOD])
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    _, rejects, _, _ = check(path, tmp_path / "out")
    assert (rejects[0]["line"], rejects[0]["reasons"]) == (2, ["not UTF-8 (byte 1 of the line)"])


@pytest.mark.parametrize("share", [0.0, 0.4, 0.5])
def test_the_share_of_rejects_decides(tmp_path, share):
    path = write(tmp_path / "d.jsonl", [GOOD, dialogue(dialogue_id="x", emotion="?")])
    good, rejects, metrics, error = check(path, tmp_path / "out", max_reject_share=share)
    assert (len(good), len(rejects), metrics["reject_share"]) == (1, 1, 0.5)
    assert (error is None) == (share == 0.5)


def test_no_dialogue_left_is_an_error_at_any_share(tmp_path):
    *_, error = check(write(tmp_path / "d.jsonl", [dialogue(emotion="?")]), tmp_path / "out", max_reject_share=1)
    assert "no dialogue is left" in error.faults[-1]


# between dialogues


def test_what_is_at_odds_with_other_rows(tmp_path):
    other = turns(
        "別の話ですが、薬を変えてから夜よく眠れるようになりました。", "眠れるようになって、朝の景色も違って見えそうですね。"
    )
    rows = [
        GOOD,
        dialogue(turns=other),
        dialogue(dialogue_id="b", situation_id="b-01"),
        dialogue(dialogue_id="c", emotion="fear", turns=other),
        dialogue(dialogue_id="d", turns=other),
    ]
    path = write(tmp_path / "d.jsonl", rows)
    good, rejects, metrics, error = check(path, tmp_path / "out")
    assert [d.dialogue_id for d in good] == ["a-01-1", "d"]
    assert [(r["line"], r["reasons"]) for r in rejects] == [
        (2, [f"dialogue_id: 'a-01-1' stands at {path}:1 too", f"words: duplicate of the dialogue at {path}:5"]),
        (3, [f"words: duplicate of the dialogue at {path}:1"]),
        (
            4,
            [
                f"situation_id: 'a-01' has another emotion or situation text at {path}:1",
                f"words: duplicate of the dialogue at {path}:5",
            ],
        ),
    ]
    assert metrics["rejected.words"] == 3 and len(error.faults) == 6


def test_a_duplicate_that_differs_in_form_only(tmp_path):
    rows = [GOOD, dialogue(dialogue_id="b", turns=turns(PATIENT.replace("、", "、 "), REPLY.replace("。", "｡")))]
    _, rejects, _, _ = check(write(tmp_path / "d.jsonl", rows), tmp_path / "out")
    assert rejects[0]["reasons"][0].startswith("words: duplicate")


def test_near_duplicates_and_shared_texts_are_told_of_and_kept(tmp_path, capsys):
    near = turns(PATIENT, REPLY.replace("こちらまで", "私まで"))
    rows = [
        GOOD,
        dialogue(dialogue_id="b", situation_id="b-01", situation="別の人が、別の病院の待合室で順番を待っている。", turns=near),
    ]
    path = write(tmp_path / "d.jsonl", rows)
    good, rejects, metrics, error = check(path, tmp_path / "out", near_duplicate=0.8)
    assert (len(good), rejects, error) == (2, [], None)
    assert (metrics["near_duplicates"], metrics["shared_texts"]) == (1, 1)
    found = [json.loads(line) for line in (tmp_path / "out/overlaps.jsonl").read_text("utf-8").splitlines()]
    assert [f["kind"] for f in found] == ["near_duplicate", "shared_text"]
    assert [d["line"] for d in found[0]["dialogues"]] == [1, 2]
    a, b = ({t[i : i + 3] for i in range(len(t) - 2)} for t in ("".join(p["text"] for p in r["turns"]) for r in rows))
    assert found[0]["similarity"] == pytest.approx(len(a & b) / len(a | b), abs=1e-4)
    assert f"warning: {path}:2: b: near duplicate of a-01-1" in capsys.readouterr().err


def test_the_grid(tmp_path):
    path = write(tmp_path / "d.jsonl", [GOOD, dialogue(dialogue_id="x", situation="")])
    *_, error = check(path, tmp_path / "out", situations_per_emotion=1, dialogues_per_situation=3, max_reject_share=1)
    assert "a-01: 2 dialogues, not 3 (validate.dialogues_per_situation)" in error.faults
    assert "fear: 0 situations, not 1 (validate.situations_per_emotion)" in error.faults
    assert not any(f.startswith("joy") for f in error.faults)


def test_signatures_are_those_of_datasketch():
    from datasketch import MinHash

    texts = [fold(text) for text in ("あ", "検査の結果", PATIENT, REPLY * 3)]
    for text, signature in zip(texts, duplicates.signatures(texts), strict=True):
        hashes, _ = duplicates.trigram_hashes([text])
        peer = MinHash(num_perm=128, hashfunc=lambda h: h)
        peer.update_batch(hashes.tolist())
        assert (peer.hashvalues == signature).all()


def test_near_duplicates_are_those_of_all_pairs(tmp_path):
    """Against the plain way, every pair: LSH may miss 4% of those that just reach the threshold, and finds nothing else."""
    import random

    draw = random.Random(0)
    lines = [json.loads(line) for line in (ROOT / "data/corpus/fear.jsonl").read_text("utf-8").splitlines()]
    texts = ["\n".join(d) for line in lines for d in line["dialogues"]]
    for changes in (1, 2, 3, 5, 8):
        for text in texts[:40]:
            letters = list(text)
            for place in draw.sample(range(len(letters)), changes):
                letters[place] = draw.choice("あいうえお")
            texts.append("".join(letters))
    near = duplicates.NearDuplicates(0.9, tmp_path)
    for text in texts:
        near.add(fold(text))
    groups = list(range(len(texts)))
    for i, j, alike in near.pairs(lambda i: texts[i]):
        assert alike == duplicates.similarity(texts[i], texts[j]) >= 0.9
        groups = [groups[i] if g == groups[j] else g for g in groups]
    grams = [duplicates.trigrams(t) for t in texts]
    pairs = [(i, j) for i in range(len(texts)) for j in range(i) if len(grams[i] & grams[j]) >= 0.9 * len(grams[i] | grams[j])]
    found = sum(groups[i] == groups[j] for i, j in pairs)
    assert len(pairs) > 60 and found >= 0.95 * len(pairs)


# the command, and its size


def test_the_command_runs_alone_in_any_folder(tmp_path):
    path = write(tmp_path / "d.jsonl", [GOOD, dialogue(dialogue_id="x", emotion="?")])
    call = [BIN / "emplifai", "validate", "--data", path, "--out", "checked"]
    done = subprocess.run(call, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "2 rows: 1 dialogues in 1 situations and 1 of 28 emotions, 1 rejected" in done.stdout
    assert f"error: {path}:2: x: emotion: '?' is none of the 28 labels" in done.stderr
    assert sorted(p.name for p in (tmp_path / "checked").iterdir()) == [
        "dialogues.jsonl", "metrics.json", "overlaps.jsonl", "rejects.jsonl", "run.json",
    ]  # fmt: skip
    assert not [p for p in tmp_path.iterdir() if p.name not in ("d.jsonl", "checked")]


def test_a_stage_on_given_files_leaves_the_results_alone(project, run):
    path = write(project / "mine.jsonl", [GOOD])
    for command in (("validate", "--data", path), ("split", "--validate-dir", "elsewhere")):
        done = run("emplifai", *command, ok=False)
        assert done.returncode == 2 and f"{command[1]} wants --out DIR too: results/{command[0]} belongs to" in done.stderr
    done = run("emplifai", "validate", "--data", path, "--out", path, ok=False)
    assert done.returncode == 2 and "mine.jsonl: a file; a folder is wanted" in done.stderr
    run("emplifai", "validate", "--data", path, "--out", "checked")
    assert not (project / "results/validate").exists()


def test_snakemake_keeps_nothing_of_a_failed_check(project, run):
    write(project / "data/corpus/joy.jsonl", [dialogue(emotion="?")])
    done = run("snakemake", "--cores", "1", "results/validate/dialogues.jsonl", ok=False)
    assert "emotion: '?'" in done.stdout + done.stderr
    assert not (project / "results/validate/dialogues.jsonl").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """From 2,000 to 50,000 dialogues (40 MB, 200 MB as Python objects) peak memory grows by a few hundred bytes each."""
    import random

    peaks = []
    for count in (2000, 50000):
        with open(tmp_path / f"{count}.jsonl", "w", encoding="utf-8") as file:
            for i in range(count):
                tail = "".join(random.Random(i).choices("あいうえおかきくけこさしすせそたちつてとなにぬねの", k=40))
                row = dialogue(
                    dialogue_id=f"s-{i // 4}-{i % 4}", situation_id=f"s-{i // 4}", turns=turns(tail + PATIENT, REPLY + tail)
                )
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        code = (
            "import sys; from emplifai.cli import main; "
            f"status = main(['validate', '--data', '{count}.jsonl', '--out', 'out{count}']); "
            "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]); sys.exit(status)"
        )
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) * 1024)
    size = (tmp_path / "50000.jsonl").stat().st_size
    assert peaks[1] - peaks[0] < 0.6 * size
    assert peaks[1] < 250e6
    shutil.rmtree(tmp_path / "out50000")


def test_checker_counts_what_it_changes():
    checker = Checker(params.Validate(), labels.load(ROOT / "data/labels.yaml"))
    record, faults = checker.check({**FLAT, "emotion": "Joy", "condition": " Ｃ型肝炎 "})
    assert (record["emotion"], record["condition"], faults, checker.normalized) == ("joy", "C型肝炎", [], 1)
