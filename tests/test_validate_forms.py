"""validate: CSV, Parquet, folders, columns of other names, and labels of the user's own."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from conftest import ROOT
from dialogue_files import FLAT, GOOD, PATIENT, REPLY, check, dialogue, turns, write
from emplifai import labels, params, prompt, reading
from emplifai.errors import UserError


def table(path: Path, rows: list[dict], encoding: str = "utf-8") -> Path:
    with open(path, "w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def expect_good(result) -> None:
    good, rejects, _, error = result
    assert (rejects, error) == ([], None)
    assert [(d.dialogue_id, d.patient, d.reference, d.condition) for d in good] == [("a-01-1", PATIENT, REPLY, "2型糖尿病")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "shift_jis", "cp932"])
@pytest.mark.parametrize("set_to", ["auto", "itself"])
def test_csv_in_each_encoding(tmp_path, encoding, set_to):
    path = table(tmp_path / "d.csv", [FLAT], encoding)
    expect_good(check(path, tmp_path / "out", {"encoding": encoding if set_to == "itself" else "auto"}))


def test_csv_of_windows_characters(tmp_path):
    text = PATIENT.replace("小さく", "髙﨑さんと①回")
    path = table(tmp_path / "d.csv", [{**FLAT, "patient": text}], "cp932")
    assert check(path, tmp_path / "out")[0][0].patient == text.replace("①", "1")


@pytest.mark.parametrize(
    ("text", "message"), [("あ".encode("utf-16"), "UTF-16"), (b"a,b\n\x81\x20,1\n", "neither UTF-8 nor Shift_JIS")]
)
def test_other_encodings_are_named(tmp_path, text, message):
    (tmp_path / "d.csv").write_bytes(text)
    with pytest.raises(UserError, match=message):
        list(reading.rows(params.Data(path=tmp_path / "d.csv")))


def test_csv_lines_and_cells(tmp_path):
    path = tmp_path / "d.csv"
    header = ",".join(FLAT)
    two_lines = [*FLAT.values()]
    two_lines[-1] = '"' + REPLY + '\nまた来週。"'
    path.write_text("\n".join([header, ",".join(two_lines), "x,y", ",".join(["z", *list(FLAT.values())[1:]])]) + "\n", "utf-8")
    good, rejects, _, _ = check(path, tmp_path / "out", max_reject_share=1)
    assert good[0].reference.endswith("\nまた来週。")
    assert [(r["line"], r["reasons"]) for r in rejects] == [(4, ["2 cells, but 7 columns"])]
    assert [d.dialogue_id for d in good] == ["a-01-1", "z"]


def test_what_spreadsheets_leave_behind(tmp_path):
    """Blanks around the names of columns, and rows of nothing but commas."""
    path, nothing = tmp_path / "d.csv", "," * (len(FLAT) - 1)
    path.write_text("\n".join(["\ufeff" + ", ".join(FLAT), ",".join(FLAT.values()), nothing, "", nothing, ""]), "utf-8")
    expect_good(check(path, tmp_path / "out"))


def test_a_quotation_mark_that_is_not_closed(tmp_path):
    row, path = list(FLAT.values()), tmp_path / "d.csv"
    for tail, message in (
        ("", "a quotation mark is not closed"),
        ("あ" * 140000, "more than 131072 characters; is a quotation mark"),
    ):
        path.write_text(f'{",".join(FLAT)}\n{",".join(row)}\n{",".join(row[:-1])},"{tail}\n', "utf-8")
        good, rejects, _, _ = check(path, tmp_path / "out", max_reject_share=1)
        assert len(good) == 1 and message in rejects[0]["reasons"][0] and rejects[0]["line"] == 3


def test_turns_in_a_cell(tmp_path):
    row = {
        **{k: v for k, v in GOOD.items() if k != "turns"},
        "turns": json.dumps(turns() + turns("はい。", "では。"), ensure_ascii=False),
    }
    assert len(check(table(tmp_path / "d.tsv", [row]), tmp_path / "out")[0][0].turns) == 4


def test_parquet(tmp_path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([{**GOOD, "score": 1.5}]), tmp_path / "d.parquet")
    result = check(tmp_path / "d.parquet", tmp_path / "out")
    expect_good(result)
    assert result[0][0].extra == {"score": 1.5}
    (tmp_path / "e.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not Parquet"):
        list(reading.rows(params.Data(path=tmp_path / "e.parquet")))


def test_id_is_taken_for_dialogue_id_and_strangers_go_to_extra(tmp_path):
    row = {"id" if k == "dialogue_id" else k: v for k, v in FLAT.items()} | {"age": 45, "site": {"a": [1, None]}}
    result = check(write(tmp_path / "d.jsonl", [row]), tmp_path / "out")
    expect_good(result)
    assert result[0][0].extra == {"age": 45, "site": {"a": [1, None]}}


def test_columns_are_mapped(tmp_path):
    theirs = {"dialogue_id": "番号", "emotion": "感情", "patient": "患者", "supporter": "返答"}
    row = {theirs.get(k, k): v for k, v in FLAT.items()} | {"感情": "うれしさ"}
    known = labels.load(ROOT / "data/labels.yaml")
    row["感情"] = known["joy"].synonyms[0]
    result = check(table(tmp_path / "d.csv", [row]), tmp_path / "out", {"columns": theirs})
    expect_good(result)
    assert result[0][0].emotion == "joy"
    with pytest.raises(UserError, match=r"no column 'age' \(data.columns: condition\)"):
        list(reading.rows(params.Data(path=tmp_path / "d.csv", columns={"condition": "age"})))
    with pytest.raises(UserError, match="'番号' is given for two fields"):
        list(reading.rows(params.Data(path=tmp_path / "d.csv", columns={"patient": "番号", "supporter": "番号"})))
    with pytest.raises(UserError, match="no field 'reply'; allowed: dialogue_id"):
        list(reading.rows(params.Data(path=tmp_path / "d.csv", columns={"reply": "x"})))


def test_a_table_without_a_column_is_one_fault(tmp_path):
    rows = [{k: v for k, v in FLAT.items() if k not in ("emotion", "supporter")}] * 3
    with pytest.raises(UserError, match="no column emotion, supporter; it has: dialogue_id") as error:
        list(reading.rows(params.Data(path=table(tmp_path / "d.csv", rows))))
    assert len(error.value.faults) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", "no such file"),
        ("d.xlsx", "not a kind of file"),
        ("empty", "no file of a kind that is read in this folder"),
        ("empty.csv", "empty; the first line names the columns: dialogue_id, situation_id"),
        ("array.jsonl", "a JSON array; JSON lines are wanted"),
    ],
)
def test_nothing_to_read(tmp_path, name, message):
    for file, text in (("d.xlsx", ""), ("empty.csv", "\n"), ("array.jsonl", '[{"id": 1}]')):
        (tmp_path / file).write_text(text)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/.hidden.jsonl").touch()
    with pytest.raises(UserError) as error:
        list(reading.rows(params.Data(path=tmp_path / name)))
    assert message in str(error.value)


def test_a_folder_of_files_of_several_kinds(tmp_path):
    (tmp_path / "d").mkdir()
    table(tmp_path / "d/a.csv", [FLAT])
    other = turns("薬を変えてから夜よく眠れるようになりました。", "眠れるようになって、朝の景色も違って見えそうですね。")
    write(tmp_path / "d/b.jsonl", [dialogue(dialogue_id="b", turns=other)])
    (tmp_path / "d/README.md").write_text("# ours")
    good, _, _, error = check(tmp_path / "d", tmp_path / "out")
    assert ([d.dialogue_id for d in good], error) == (["a-01-1", "b"], None)


# labels of the user's own

LABEL_FAULTS = [
    ("fear: {ja: 不安, synonyms: 怖い}", "fear: synonyms: a list of words is wanted, [...], found '怖い'"),
    ("fear: {ja: 不安, synonyms: [2]}", "fear: synonyms: a list of words is wanted, [...], found [2]"),
    ("fear: {ja: ''}", "fear: ja: text is wanted, found ''"),
    ("fear: 不安", "fear: fields are wanted, {word: ..., synonyms: [...]}, or none, found '不安'"),
    ("fear: {ja: 不安, synonym: [怖い]}", "fear: unknown field 'synonym'; allowed: word, ja, synonyms"),
    ("fear: {ja: 不安, polarity: 3}", "fear: polarity: text is wanted, found 3"),
    ("no: {ja: いや}", "False: no name of a label"),
    ("none: {ja: なし}", "'none': no name of a label"),
    ("fear: {ja: 不安, synonyms: [Anger]}\nanger: {ja: 怒り}", "anger: 'anger' stands under fear too"),
    ("fear: {ja: 不安}\nfear: {ja: 恐れ}", "labels.yaml:2: fear: this key stands at line 1 already"),
    ("[fear]", "no labels; want NAME"),
]


@pytest.mark.parametrize(("text", "message"), LABEL_FAULTS)
def test_faults_of_a_file_of_labels(tmp_path, text, message):
    (tmp_path / "labels.yaml").write_text(text, "utf-8")
    with pytest.raises(UserError) as error:
        labels.load(tmp_path / "labels.yaml")
    assert message in str(error.value)


def test_labels_of_ones_own(tmp_path):
    (tmp_path / "labels.yaml").write_text("up: {ja: 上向き, synonyms: [うれしい]}\ndown: {ja: 下向き}", "utf-8")
    rows = [dialogue(emotion="うれしい"), dialogue(dialogue_id="x", emotion="joy")]
    data = {"labels": str(tmp_path / "labels.yaml")}
    good, rejects, metrics, _ = check(write(tmp_path / "d.jsonl", rows), tmp_path / "out", data)
    assert (good[0].emotion, metrics["dialogues.up"], metrics["dialogues.down"]) == ("up", 1, 0)
    assert rejects[0]["reasons"] == ["emotion: 'joy' is none of the 2 labels"]


def test_a_label_without_a_word_is_called_by_its_name(tmp_path):
    (tmp_path / "labels.yaml").write_text("worry:\nlow_spirits: {}\njoy: {word: delight}", "utf-8")
    known = labels.load(tmp_path / "labels.yaml")
    assert [label.word for label in known.values()] == ["worry", "low spirits", "delight"]
    said = ["Low spirits.", "**Worry**", "It is DELIGHT", "I do not enjoy it; worry", "worry, joy", "delightful", "none of them"]
    assert [labels.read(text, known) for text in said] == ["low_spirits", "worry", "joy", "worry", "none", "none", "none"]


def test_a_wording_of_ones_own_is_checked(monkeypatch, tmp_path):
    from importlib.resources import files

    from emplifai import prompts

    shutil.copytree(str(files("emplifai.prompts")), tmp_path / "p")
    monkeypatch.setattr(prompts, "files", lambda package: tmp_path / "p")
    (tmp_path / "p/talk-de-v1.yaml").write_text("language: de\ntask: [a]\n", "utf-8")
    with pytest.raises(UserError) as error:
        prompts.load("talk", "de-v1")
    assert "talk-de-v1.yaml: task: text is wanted, found ['a']" in str(error.value)
    assert "talk-de-v1.yaml: supporter: missing" in str(error.value)
    (tmp_path / "p/judge-de-v1.yaml").write_text("task: A: B", "utf-8")
    with pytest.raises(UserError, match=r"judge-de-v1\.yaml: not YAML"):
        prompts.load("judge", "de-v1")
    text = (tmp_path / "p/judge-en-v1.yaml").read_text("utf-8")
    (tmp_path / "p/judge-mine.yaml").write_text(text.replace("{{", "{").replace("}}", "}"), "utf-8")
    with pytest.raises(UserError, match=r"judge-mine\.yaml: (user|system).* other braces are doubled"):
        prompts.load("judge", "mine")
    asked = (tmp_path / "p/talk-en-v1.yaml").read_text("utf-8").replace("{labels}", "joy")
    (tmp_path / "p/talk-mine.yaml").write_text(asked, "utf-8")
    with pytest.raises(UserError, match=r"talk-mine\.yaml: question: put \{labels\}"):
        prompt.talk_of(params.Data(prompt="mine"))
    with pytest.raises(UserError, match=r"judge-mine\.yaml"):  # before anything runs
        params.Judge(rubric="mine")


def test_its_own_output_comes_out_unchanged(tmp_path):
    check(ROOT / "data/corpus", tmp_path / "one")
    check(tmp_path / "one/dialogues.jsonl", tmp_path / "two")
    assert (tmp_path / "one/dialogues.jsonl").read_bytes() == (tmp_path / "two/dialogues.jsonl").read_bytes()
