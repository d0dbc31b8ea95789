"""Personal data in Japanese text, found by pattern: telephone numbers, e-mail, My Number, patient ids, dates of birth.

A plain age, a year or a date of treatment is none. Names and addresses are not looked for: patterns cannot find them.
"""

import re

# Full-width ASCII has half-width twins at the same places, so what is found there can be masked in the text itself.
_HALF = {c: c - 0xFEE0 for c in range(0xFF01, 0xFF5F)} | {0x3000: 0x20} | dict.fromkeys(map(ord, "‐‑‒–—―−"), ord("-"))
_GAP = r"[-ー ()]{0,2}"
_DATE = (
    r"(?:\d{4}|(?:明治|大正|昭和|平成|令和|[MTSHR])\.? ?(?:\d{1,2}|元))(?:年|[-/.]) ?\d{1,2} ?(?:月|[-/.]) ?\d{1,2}(?!\d) ?日?"
)
_KANJI_DATE = (
    r"(?:(?:明治|大正|昭和|平成|令和)[一二三四五六七八九十元]{1,3}|[一二][〇零一二三四五六七八九十百千]{3,7})"
    r"年[一二三四五六七八九十]{1,2}月[一二三四五六七八九十]{1,3}日"
)

EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
PHONE = re.compile(rf"(?<![\d.-])(?:\+81{_GAP}(?:\(0\))?|\(?0)\d(?:{_GAP}\d){{7,9}}(?![\d-])")
TWELVE = re.compile(r"(?<!\d)(?<!\d[- ])\d{4}([- ]?)\d{4}\1\d{4}(?!\d)(?![- ]\d)")
DOTTED = re.compile(r"(?<![\d.])0\d{1,4}\.\d{1,4}\.\d{3,4}(?![\d.])")
NAMED = re.compile(  # with a wrong check digit too: a mistyped number stands for a person all the same
    r"(?:マイナンバー|個人番号|my[ _]?number)[ :=は#が、()「]{0,4}(\d{4}([- ]?)\d{4}\2\d{4})(?!\d)(?![- ]\d)", re.IGNORECASE
)
PATIENT = re.compile(
    r"(?:(?:患者|カルテ|診察券|受診者?|診療録|被保険者|保険証)(?:の|証の)? ?(?:ID|番号|No\.?|ナンバー|コード)|(?:診察券|保険証)"
    r"|patient[ _-]?(?:ID|No\.?|number)|\bMRN)[ :=は#が、()「」]{0,4}([A-Za-z]{0,4}[- ]?\d[\d-]{2,}\d)",
    re.IGNORECASE,
)
BIRTH = re.compile(
    r"(?:生年月日|誕生日|\bDOB|date[ _-]of[ _-]birth|birth[ _-]?da(?:te|y)|born(?: on)?)[ :=は#が、()「]{0,4}"
    rf"({_DATE}|{_KANJI_DATE}|(?:19|20)\d{{6}}(?!\d))"
    rf"|({_DATE}|{_KANJI_DATE})(?: ?に)? ?(?:生まれ|生れ|誕生|生(?![ぁ-んァ-ヶ一-龠]))",
    re.IGNORECASE,
)
_MAYBE = re.compile(r"[0-9０-９@＠]|年.{1,3}月.{1,4}日")  # a text without any of these holds nothing of the kinds below

MASKS = {
    "e-mail address": "[メールアドレス]",
    "My Number": "[個人番号]",
    "patient id": "[患者番号]",
    "date of birth": "[生年月日]",
    "telephone number": "[電話番号]",
}


def is_my_number(digits: str) -> bool:
    """Whether the last of 12 digits is the check digit of a My Number (総務省令第85号 of 2014, article 5)."""
    *body, check = map(int, digits)
    rest = sum(p * q for p, q in zip(reversed(body), [2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6], strict=True)) % 11
    return check == (0 if rest <= 1 else 11 - rest)


def is_phone(text: str) -> bool:
    """Whether a run of digits has the length of a Japanese number: 10 digits, or 11 of a mobile or IP telephone."""
    digits = re.sub(r"\D", "", text.replace("+81", "0").replace("(0)", ""))
    digits = "0" + digits.lstrip("0")
    if re.fullmatch(r"0[5-9]0[1-9]\d{7}|0800\d{7}", digits):
        return True
    return len(digits) == 10 and not re.match(r"0[5-9]0", digits)


def find(text: str) -> list[tuple[int, int, str]]:
    """What personal data a text holds: (start, end, kind), in order, none overlapping another."""
    if not _MAYBE.search(text):
        return []
    half = text.translate(_HALF)
    found = [(*m.span(), "e-mail address") for m in EMAIL.finditer(half)]
    found += [(*m.span(1), "patient id") for m in PATIENT.finditer(half)]
    found += [(*m.span(1 if m[1] else 2), "date of birth") for m in BIRTH.finditer(half)]
    found += [(*m.span(1), "My Number") for m in NAMED.finditer(half)]
    found += [(*m.span(), "My Number") for m in TWELVE.finditer(half) if is_my_number(re.sub(r"\D", "", m[0]))]
    found += [(*m.span(), "telephone number") for p in (PHONE, DOTTED) for m in p.finditer(half) if is_phone(m[0])]
    kept: list[tuple[int, int, str]] = []
    for start, end, kind in sorted(found, key=lambda f: (list(MASKS).index(f[2]), f[0])):
        if all(end <= s or start >= e for s, e, _ in kept):
            kept.append((start, end, kind))
    return sorted(kept)


def mask(text: str, language: str) -> str:
    """The text with a name of its kind in place of each piece of personal data; in Japanese where `language` is "ja"."""
    for start, end, kind in reversed(find(text)):
        text = text[:start] + (MASKS[kind] if language == "ja" else f"[{kind}]") + text[end:]
    return text
