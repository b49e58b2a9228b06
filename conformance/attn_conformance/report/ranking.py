"""Ranking: the order in which failures are told, those first that lead to a mistake in the code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_conformance.expect import allowed_by
from attn_reference.requirements import load_requirements

POLICY = ("CTOR", "ERR")
"""Groups of requirements on what is refused and how: matters of policy, unless numbers are wrong."""

ENDS = ("raised ", "ended the process", "did not return")
"""What is said of a call that gave nothing."""


def rank(requirement: str, row: Mapping[str, Any]) -> tuple[bool, int]:
    """The place of a failure: musts first, and of these, as of the others, what leads to the mistake.

    0: with a likely cause; 1: numbers that no looser claim would allow, or traces that were left; 2: calls that gave
    nothing; 3: what a looser claim would allow, and refusals. row: as in a result file.
    """
    message = row["message"] or ""
    known = load_requirements().get(requirement)
    group = requirement.partition("-")[0]
    refusing = group in POLICY or (known is not None and known.validated) or message.startswith("accepted ")
    if allowed_by(message) or (refusing and "out of bound" not in message):
        place = 3
    elif row["cause"]:
        place = 0
    else:
        place = 2 if any(words in message for words in ENDS) else 1
    return row["level"] != "must", place
