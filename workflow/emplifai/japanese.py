"""Japanese text: its normal form, the form in which texts are compared, and whether a text is Japanese at all."""

import re
import unicodedata

# NFKC as it is would also turn the punctuation of Japanese print into ASCII (！？… into !?...), which changes what a
# model learns to write; "nfkc-ja" leaves these characters alone. Letters, digits and half-width kana change as NFKC says.
KEPT = "！？…‥～（）：；，．゛゜％＆＋＝／＜＞［］｛｝＊＃"
_PARTS = re.compile(f"[^{re.escape(KEPT)}]+")
_KANA = re.compile("[ぁ-ゖァ-ヺー]+")
_HAN = re.compile("[々〆一-鿿㐀-䶿]+")
_BROKEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd\uf8f0-\uf8f3\ud800-\udfff]"
)  # f8f0-f8f3: what cp932 makes of stray bytes


def normalize(text: str, form: str) -> str:
    """`text` in the form "nfkc-ja", "nfkc" or "nfc" (Unicode Standard Annex 15), without white space around it."""
    if form == "nfkc-ja":
        if unicodedata.is_normalized("NFKC", text):
            return text.strip()
        return _PARTS.sub(lambda m: unicodedata.normalize("NFKC", m[0]), text).strip()
    return unicodedata.normalize(form.upper(), text).strip()


def fold(text: str) -> str:
    """The form in which texts are compared: NFKC, no case, no white space."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def broken(text: str) -> str | None:
    """The first character that no text should hold (control, lone surrogate, U+FFFD of a failed decoding), as U+...."""
    found = _BROKEN.search(text)
    return f"U+{ord(found[0]):04X}" if found else None


def is_japanese(text: str) -> bool:
    """Whether a text may be Japanese: kana among its letters, as Japanese sentences have and Chinese ones have not.

    Of 10 letters and more at least 30% are kana or kanji; of 20 and more at least 5% are kana. Shorter texts pass: a
    turn may be "OK" or a list of kanji.
    """
    kana = len("".join(_KANA.findall(text)))
    if kana >= 0.3 * len(text):
        return True
    letters = sum(map(str.isalpha, text))
    if letters < 10 or kana >= 0.3 * letters:
        return True
    han = len("".join(_HAN.findall(text)))
    return kana + han >= 0.3 * letters and (letters < 20 or kana >= 0.05 * letters)
