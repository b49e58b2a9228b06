"""Assumed claims: those that a target has not stated and its signature does not show, so that a failure names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from attn_conformance.cases import Case, case_from_json
from attn_conformance.registry import checks
from attn_conformance.results import Row
from attn_conformance.subject import Subject
from attn_reference.claims import Claims
from attn_reference.requirements import load_requirements

UNSEEN = frozenset(
    {
        *("gradients", "zero-sizes", "linear-memory", "float32-mask", "shared-cache", "cache-edits"),
        *("casts-weights", "constructor"),
    }
)
"""Features that no parameter's name stands for."""


def assumed(claims: Claims) -> frozenset[str]:
    """Of the claims of a target that states none: features and dtypes that were taken for granted."""
    return (claims.features & UNSEEN) | set(claims.dtypes)


def pointed(row: Row, subject: Subject, refused: Mapping[str, str]) -> Row:
    """A failed row with a line that names the assumed claim it rests on, if any; refused: as for `rows.judge`."""
    if row.status != "failed":
        return row
    dtypes = [dtype for dtype in refused if dtype in subject.assumed]
    if row.requirement == "NUM-1" and dtypes:
        name, how = ", ".join(dtypes), f"--dtype {','.join(subject.claims.dtypes)}"
    else:
        name = next((feature for feature in _features(row) if feature in subject.assumed), "")
        how = f"--without {name}"
    if not name:
        return row
    return replace(
        row, message=f"{row.message}\nrests on the claim {name}, which was assumed; {how} leaves it out"
    )


def _features(row: Row) -> list[str]:
    """The features without which a case that failed would not have been asked for."""
    if row.counterexample is None:
        return []
    check = next(check for check in checks()[row.requirement] if check.name == row.check)
    rests_on = load_requirements()[row.requirement].rests_on
    return [*rests_on, *check.needs, *_drawn(case_from_json(row.counterexample))]


def _drawn(case: Case) -> list[str]:
    """The features that a case makes use of by itself: weights of another dtype, and masks in float32."""
    found = []
    weights = getattr(case, "weights_dtype", None)
    if weights not in (None, case.dtype) or any(c.dtype != case.dtype for c in getattr(case, "before", ())):
        found.append("casts-weights")
    if getattr(getattr(case, "mask", None), "dtype", None) == "float32" != case.dtype:
        found.append("float32-mask")
    return found
