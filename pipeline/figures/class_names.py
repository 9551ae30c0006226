"""Class names for figures: short, and drawable with the system's fonts."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

WIDEST = 24  # columns; a Chinese character takes two
# Fonts for characters that matplotlib's own lacks, mainly Chinese, Japanese and Korean.
FALLBACKS = re.compile(
    "CJK|Source Han|WenQuanYi|Droid Sans Fallback|IPA.*Gothic|Takao.*Gothic|VL.?Gothic|Nanum.*Gothic|Unifont|Arial Unicode|"
    "PingFang|Hiragino Sans|Apple SD Gothic|YaHei|SimHei|Yu Gothic|Malgun|MS Gothic|Noto Sans"
)


def legible(names: list[str]) -> tuple[list[str], list[str]]:
    """Returns names for a figure, and the font families to draw them with.

    A name that no installed font can draw becomes ``class 3``, with a note; a long name is shortened in the middle.
    """
    characters = set().union(*names)
    families, missing = _fonts_of(characters)
    shown = [f"class {i}" if missing & set(name) else shortened(name) for i, name in enumerate(names)]
    if undrawn := [name for name in names if missing & set(name)]:
        print(f"note: figures number {len(undrawn)} of {len(names)} classes: no font here can draw {shortened(undrawn[0])!r}")
    count = Counter(shown)
    return [f"{i}: {name}" if count[name] > 1 else name for i, name in enumerate(shown)], families


def _fonts_of(characters: set[str]) -> tuple[list[str], set[str]]:
    """Returns font families that have these characters, and the characters that none has."""
    own = font_manager.findfont(font_manager.FontProperties(family=["sans-serif"]))
    missing = {character for character in characters if character.isprintable()} - _characters(own)
    families = ["sans-serif"]
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: font.name):
        if missing and font.name not in families and FALLBACKS.search(font.name) and missing & (has := _characters(font.fname)):
            families.append(font.name)
            missing -= has
    return families, missing


@functools.cache
def _characters(font: str) -> frozenset[str]:
    return frozenset(map(chr, FT2Font(font).get_charmap()))


def shortened(name: str) -> str:
    """Puts a name on one line, and shortens it in the middle if it is wide."""
    name = "".join(character if character.isprintable() else " " for character in name)
    if _width(name) <= WIDEST:
        return name
    start, end = name, name
    while _width(start) > WIDEST // 2:
        start = start[:-1]
    while _width(end) > WIDEST - WIDEST // 2 - 1:
        end = end[1:]
    return f"{start}…{end}"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
