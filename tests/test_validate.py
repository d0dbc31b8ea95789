"""validate: every form of data, every fault with its message, and memory that does not grow with the file."""

import csv
import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from conftest import BIN, ROOT, environment
from emplifai import duplicates, japanese, labels, params, personal, reading, validate
from emplifai.checks import Checker
from emplifai.errors import UserError
from emplifai.paths import Paths
from emplifai.records import Dialogue, read_json, read_jsonl

PATIENT = "検査の数値が下がっていて、帰り道にひとりで小さくガッツポーズをしました。"
REPLY = "数値が下がったんですね。続けてこられた毎日が形になって、こちらまでうれしくなります。"
GOOD = {
    "dialogue_id": "a-01-1",
    "situation_id": "a-01",
    "emotion": "joy",
    "condition": "2型糖尿病",
    "situation": "定期検査で数値が目標に届いたと聞かされた人が、家族に知らせる前の帰り道を歩いている。",
    "turns": [{"role": "patient", "text": PATIENT}, {"role": "supporter", "text": REPLY}],
}
FLAT = {k: v for k, v in GOOD.items() if k != "turns"} | {"patient": PATIENT, "supporter": REPLY}


def dialogue(**values) -> dict:
    return {**GOOD, **values}


def turns(patient=PATIENT, supporter=REPLY) -> list[dict]:
    return [{"role": "patient", "text": patient}, {"role": "supporter", "text": supporter}]


def write(path: Path, rows: list) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r, ensure_ascii=False)) + "\n" for r in rows), "utf-8")
    return path


def check(path: Path, out: Path, data=None, **settings) -> tuple[list[Dialogue], list[dict], dict, UserError | None]:
    """Run the stage: dialogues, rejects, metrics and the error it ended with."""
    values = {"data": {"path": str(path), "labels": str(ROOT / "data/labels.yaml"), **(data or {})}, "validate": settings}
    error = None
    try:
        validate.run(params.Params(**values, models={"r": {"backend": "reference"}}), Paths(folders={"validate": out}))
    except UserError as raised:
        error = raised
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text("utf-8").splitlines()]
    return list(read_jsonl(out / "dialogues.jsonl", Dialogue)), rejects, read_json(out / "metrics.json"), error


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


# forms of data


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
    ("fear: {ja: ''}", "fear: wants a field 'ja'"),
    ("fear: {ja: 不安, synonym: [怖い]}", "fear: unknown field 'synonym'; allowed: ja, synonyms"),
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


def test_its_own_output_comes_out_unchanged(tmp_path):
    check(ROOT / "data/corpus", tmp_path / "one")
    check(tmp_path / "one/dialogues.jsonl", tmp_path / "two")
    assert (tmp_path / "one/dialogues.jsonl").read_bytes() == (tmp_path / "two/dialogues.jsonl").read_bytes()


# text


def test_normalization_says_what_it_changed_and_keeps_japanese_punctuation(tmp_path):
    text = "ＨｂＡ１ｃが７％に｡ｱﾚ？すごい！…（うれしい）"
    path = write(tmp_path / "d.jsonl", [dialogue(turns=turns(patient=text))])
    good, _, metrics, _ = check(path, tmp_path / "a")
    assert good[0].patient == "HbA1cが7％に。アレ？すごい！…（うれしい）"
    assert metrics["normalized_texts"] == 1
    assert check(path, tmp_path / "b", normalization="nfkc")[0][0].patient == unicodedata.normalize("NFKC", text)
    assert check(path, tmp_path / "c", normalization="nfc")[0][0].patient == text


def test_combining_marks_join(tmp_path):
    assert japanese.normalize("か\u3099っこう", "nfkc-ja") == "がっこう"


@pytest.mark.parametrize(
    "text", ["はい。", "OK", "MRIとCTの検査でSpO2が97でした。", "糖尿病性腎症透析導入", "CKD G3b、eGFR 42と言われました。"]
)
def test_this_is_japanese(text):
    assert japanese.is_japanese(text)


# personal data: known valid and invalid My Numbers worked out by hand from the check digit's definition
PERSONAL = [
    ("090-1234-5678に電話", "[電話番号]に電話"),
    ("０９０−１２３４−５６７８です", "[電話番号]です"),
    ("070ー1234ー5678", "[電話番号]"),
    ("03(1234)5678へ", "[電話番号]へ"),
    ("0120-444-113", "[電話番号]"),
    ("+81 90-1234-5678", "[電話番号]"),
    ("0312345678", "[電話番号]"),
    ("taro.y@example.co.jpまで", "[メールアドレス]まで"),
    ("ｔａｒｏ＠ｅｘａｍｐｌｅ．ｃｏｍ", "[メールアドレス]"),
    ("患者ID: 12345", "患者ID: [患者番号]"),
    ("カルテ番号は００１２３４５", "カルテ番号は[患者番号]"),
    ("診察券 0012345", "診察券 [患者番号]"),
    ("生年月日は1980年5月10日", "生年月日は[生年月日]"),
    ("昭和55年5月10日生まれ", "[生年月日]生まれ"),
    ("昭和五十五年五月十日生まれ", "[生年月日]生まれ"),
    ("1980/5/10生", "[生年月日]生"),
    ("マイナンバーは123456789018", "マイナンバーは[個人番号]"),
    ("マイナンバー：１２３４−５６７８−９０１２", "マイナンバー：[個人番号]"),
    ("my_number: 123456789012", "my_number: [個人番号]"),
    ("090.1234.5678まで", "[電話番号]まで"),
    ("生年月日19800510", "生年月日[生年月日]"),
    ("date_of_birth: 1980-05-10", "date_of_birth: [生年月日]"),
    ("1234 5678 9018", "[個人番号]"),
]
HARMLESS = [
    "45歳です", "2019年に手術", "2023年5月10日に入院しました", "1980年生まれ", "昭和55年生まれ", "5月10日生まれ",
    "血圧は120-80、脈は72", "123456789012", "HbA1cが7.2から6.8", "2010-2020", "08:30-09:45", "2024-01-15",
    "患者さん1000人", "1980年5月10日先生に会った", "2020年3月15日生活が変わった", "60.5kg 61.2kg 59.8kg", "090のつく番号",
    "個人番号を1234回", "0.5.12", "2024.05.12", "誕生日は5月10日",
]  # fmt: skip


@pytest.mark.parametrize(("text", "masked"), PERSONAL)
def test_personal_data_is_found_and_masked(text, masked):
    assert personal.mask(text) == masked


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_personal_data(text):
    assert personal.find(text) == []


def test_the_check_digit_of_my_number():
    # 12345678901: weights 6 5 4 3 2 7 6 5 4 3 2 from the left; sum 190 ... see the ordinance
    total = sum(int(d) * w for d, w in zip("12345678901", (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2), strict=True))
    check_digit = 0 if total % 11 <= 1 else 11 - total % 11
    assert [d for d in range(10) if personal.is_my_number(f"12345678901{d}")] == [check_digit] == [8]


@pytest.mark.parametrize("policy", ["reject", "mask", "allow"])
def test_the_policy_for_personal_data(tmp_path, policy):
    row = {**dialogue(turns=turns(patient=PATIENT + "090-1234-5678")), "memo": {"患者ID": 12345}}
    good, rejects, metrics, error = check(write(tmp_path / "d.jsonl", [row]), tmp_path / "out", personal_data=policy)
    assert metrics["personal.telephone_number"] == metrics["personal.patient_id"] == 1
    if policy == "reject":
        assert not good and "telephone" in str(error) and "1234" not in json.dumps(rejects)
    else:
        tail = "[電話番号]" if policy == "mask" else "090-1234-5678"
        assert good[0].patient == PATIENT + tail
        assert good[0].extra["memo"]["患者ID"] == ("[患者番号]" if policy == "mask" else 12345)


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

    texts = ["あ", "検査の結果", PATIENT, REPLY * 3]
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
        near.add(text)
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
