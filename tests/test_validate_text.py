"""validate: Unicode, language and personal data in the words of a dialogue."""

import json
import unicodedata

import pytest

from dialogue_files import PATIENT, check, dialogue, turns, write
from emplifai import japanese, personal


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
    assert personal.mask(text, "ja") == masked


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
