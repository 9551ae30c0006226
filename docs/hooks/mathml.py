"""Renders formulas as MathML, which browsers support natively: no script, no font, no network.

Pages contain ``$...$`` and ``$$...$$``, which code hosts render too; arithmatex marks them, and this hook converts them.
"""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
# What latex2mathml leaves out: the space after a function's name, and around a relation that it takes for a letter.
FUNCTION = re.compile(r"(<mi>(?:log|exp)</mi>)(?!<mo)")
SIMILAR = ("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")


def on_page_content(content: str, /, *, page: Any, **_: Any) -> str:
    """Called by MkDocs with the HTML of each page."""

    def formula(found: re.Match[str]) -> str:
        latex = html.unescape(found[3]).strip()
        mathml = convert(latex, display="block" if found[2] == "[" else "inline")
        mathml = FUNCTION.sub(r'\1<mspace width="0.17em"/>', mathml).replace(*SIMILAR)
        if "<mi>&</mi>" in mathml or "<mi>\\" in mathml:  # unknown commands are passed through
            raise PluginError(f"{page.file.src_uri}: not known to latex2mathml: {latex}")
        scrolls = ' class="formula" tabindex="0"' if found[1] == "div" else ""
        return f"<{found[1]}{scrolls}>{mathml}</{found[1]}>"

    return FORMULA.sub(formula, content)
