"""Texts of patients and models as a rater sees them: as text, whatever they hold."""

import re

from markupsafe import Markup, escape

# What has no shape of its own, or changes the shape of what stands around it: controls, bidi controls, lone surrogates, tags.
# Zero-width joiners stay: they hold emoji together.
HIDDEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> Markup:
    """The text escaped; a character that nobody would see stands there by its number, so it can do nothing."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Markup("").join(
        Markup('<span class="hidden-character">U+{:04X}</span>').format(ord(part)) if HIDDEN.fullmatch(part) else escape(part)
        for part in re.split(f"({HIDDEN.pattern})", text)
        if part
    )


def paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]
