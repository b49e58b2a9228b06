"""Rows: one requirement judged on one subject, from its claims and an exploration to a status."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from dataclasses import replace

from attn_conformance.exploration import AS_REQUIRED, Tally, explore
from attn_conformance.registry import Check, checks
from attn_conformance.results import PLANNED, Cell, Row, Status
from attn_conformance.subject import Subject
from attn_reference.claims import MASK_FEATURES
from attn_reference.requirements import Requirement

TRIED = frozenset({"gqa", "scale", "dv"})
"""Claims that a plain function does not make, and whose requirements are tried all the same."""

TRIALS = 10
"""Examples in such a trial: enough to tell that something works, not that it conforms."""


def judge(
    requirement: Requirement, subject: Subject, *, examples: int, seed: int, refused: dict[str, str]
) -> tuple[Row, Counter[str]]:
    """The row of a requirement, and how often each event occurred.

    refused: claimed dtypes that the subject does not take, with what it said; they fail NUM-1 and nothing else.
    """
    started = time.perf_counter()
    level = level_for(requirement, subject)
    row = Row(requirement.id, level, "skipped")
    if requirement.planned:
        return replace(row, message=PLANNED), Counter()
    check, number = checks()[requirement.id], zlib.crc32(f"{seed} {requirement.id}".encode())
    missing = unmet(requirement, subject)
    if missing:
        works = set(missing) <= TRIED and _works(check, subject, missing, number)
        hint = f" (it works where tried; --with {','.join(missing)} asks for it)" if works else ""
        return replace(row, message=f"not claimed: {', '.join(missing)}{hint}"), Counter()
    try:
        tally = explore(check, subject, examples=examples, seed_value=number, observe=level == "observed")
    except Exception as error:
        text = f"the suite itself failed: {type(error).__name__}: {error}"
        return replace(row, status="error", message=text, seconds=time.perf_counter() - started), Counter()
    difference = subject.convention.difference(requirement.id)
    row = replace(
        row,
        examples=tally.examples,
        effective=tally.effective,
        seconds=time.perf_counter() - started,
        declared=None if difference is None else f"{difference.text} ({difference.link})",
    )
    if level == "observed":
        return replace(row, status="observed", observation=_observation(tally)), tally.events
    status, message = _status(tally, check.floor)
    cells: dict[str, Status] = dict.fromkeys(tally.dtypes, status)
    if tally.last is not None:
        case = tally.last[0]
        cells = {case.dtype: status}  # of the others nobody knows: the search ended there
        row = replace(row, counterexample=case.to_json(), summary=case.describe())
    if requirement.id == "NUM-1" and refused:
        status, message = "failed", "; ".join(f"{d} is claimed, yet {text}" for d, text in refused.items())
        cells |= dict.fromkeys(refused, status)
    listed = tuple(Cell(subject.device, dtype, cell) for dtype, cell in cells.items())
    return replace(row, status=status, message=message, cells=listed), tally.events


def level_for(requirement: Requirement, subject: Subject) -> str:
    """The level that applies to a subject: a claim can turn what is observed into a must, and the reverse."""
    if requirement.validated and not subject.scope.has("validates"):
        return "observed"
    invariant = subject.claims.features & {"batch-invariance", "run-determinism"}
    return requirement.claimed_level if requirement.claimed_level and invariant else requirement.level


def unmet(requirement: Requirement, subject: Subject) -> list[str]:
    """Features that a requirement rests on and the subject does not claim."""
    missing = [feature for feature in requirement.rests_on if not subject.scope.has(feature)]
    about_masks = requirement.group == "MASK" or requirement.id == "CAUSAL-5"
    if about_masks and not missing and not subject.claims.features & MASK_FEATURES:
        return ["bool-mask or float-mask"]
    return missing


def _works(check: Check, subject: Subject, features: list[str], number: int) -> bool:
    claims = replace(subject.claims, features=subject.claims.features | set(features))
    try:
        tally = explore(
            check, replace(subject, claims=claims), examples=TRIALS, seed_value=number, observe=True
        )
    except Exception:
        return False  # the convention has no way to say it
    return tally.examples > 0 and tally.failures == 0


def _status(tally: Tally, floor: float) -> tuple[Status, str | None]:
    if tally.first is not None and tally.last is not None:
        repeats = "" if tally.repeats else " (not repeatable: a second run of the same case did not fail)"
        return "failed", tally.last[1].message + repeats
    needed = floor * tally.examples
    if tally.effective < needed or not tally.examples:
        return (
            "error",
            f"too few effective examples: {tally.effective} of {tally.examples}, {needed:.0f} were needed",
        )
    return "passed", None


def _observation(tally: Tally) -> str:
    """What was seen, the most frequent first, and for which faults."""
    counts: Counter[str] = Counter()
    faults: dict[str, set[str]] = {}
    for (fault, text), count in tally.seen.items():
        counts[text] += count
        faults.setdefault(text, set()).add(fault)
    parts = []
    for text, count in counts.most_common():
        named = sorted(faults[text] - {"none"}) if text != AS_REQUIRED else []
        parts.append(f"{text} ({count}{': ' if named else ''}{', '.join(named)})")
    return "; ".join(parts)
