"""Names: which of the known ones stand nearest to one that is unknown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

MOST = 3
"""Names that are offered: more would be a list to search."""

ALIKE = 0.7
"""Least share of letters in common, as difflib counts it: at its own 0.6, "speed" is like "fused"."""


def near(name: str, known: Iterable[str]) -> list[str]:
    """The known names that somebody may have meant, the likeliest first; the one alone that differs in punctuation."""
    names = list(known)
    same = [other for other in names if _bare(other) == _bare(name)]
    return same[:1] or get_close_matches(name, names, MOST, ALIKE)


def suggestion(name: str, known: Iterable[str]) -> str:
    """The same as the end of a message, "" where nothing is near."""
    found = near(name, known)
    return f"; did you mean {', '.join([*found[:-2], ' or '.join(found[-2:])])}?" if found else ""


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
