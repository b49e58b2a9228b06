"""Rows: one requirement judged on one subject, from its claims and an exploration to a status."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from dataclasses import replace

from attn_conformance.causes import likely_cause
from attn_conformance.exploration import AS_REQUIRED, Tally, explore
from attn_conformance.registry import Check, checks
from attn_conformance.results import PLANNED, Cell, Row, Status
from attn_conformance.subject import Subject
from attn_reference.claims import MASK_FEATURES
from attn_reference.requirements import Requirement

TRIED = frozenset({"gqa", "scale", "dv"})
"""Claims that a plain function does not make, and whose requirements are tried all the same."""

ABOUT_MASKS = frozenset({"CAUSAL-4", "CAUSAL-5", "CAUSAL-6", "CACHE-6"})
"""Requirements about masks whose ids do not say so."""

DEFAULT = 150
"""Examples of a row at the default effort, to which a check's own limit refers; never fewer than two."""

TRIALS = 10
"""Examples in such a trial: enough to tell that something works, not that it conforms."""

WITNESSES = 20
"""Examples that are run to tell causes apart which the smallest case does not."""


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
    number = zlib.crc32(f"{seed} {requirement.id}".encode())
    mine = [check for check in checks()[requirement.id] if subject.kind in check.kinds]
    missing = unmet(requirement, subject, mine)
    if missing:
        works = set(missing) <= TRIED and _works(mine[0], subject, missing, number)
        hint = f" (it works where tried; --with {','.join(missing)} asks for it)" if works else ""
        return replace(row, message=f"not claimed: {', '.join(missing)}{hint}"), Counter()
    tallies: list[tuple[Check, Tally]] = []
    try:
        asked = [check for check in mine if not check.lacks(subject.scope)]
        share = -(-examples // len(asked))
        for index, check in enumerate(asked):
            most = share if check.at_most is None else min(share, max(2, check.at_most * examples // DEFAULT))
            tally = explore(
                check, subject, examples=most, seed_value=number + index, observe=level == "observed"
            )
            tallies.append((check, tally))
            if tally.first is not None:
                break
    except Exception as error:
        text = f"the suite itself failed: {type(error).__name__}: {error}"
        return replace(row, status="error", message=text, seconds=time.perf_counter() - started), Counter()
    events = sum((tally.events for _, tally in tallies), Counter())
    failed = tallies[-1][1].first is not None  # its own examples tell how soon it was found
    difference = subject.convention.difference(requirement.id)
    row = replace(
        row,
        examples=tallies[-1][1].examples if failed else sum(tally.examples for _, tally in tallies),
        effective=sum(tally.effective for _, tally in tallies),
        seconds=time.perf_counter() - started,
        declared=None if difference is None else f"{difference.text} ({difference.link})",
    )
    if level == "observed":
        return replace(row, status="observed", observation=_observation(tallies)), events
    unasked = [tally.unasked for _, tally in tallies if tally.unasked]
    if unasked and not any(tally.effective or tally.failures for _, tally in tallies):
        return replace(row, message=f"nothing to ask: {unasked[0]}"), events
    status, message = _status(tallies)
    cells: dict[str, Status] = dict.fromkeys(sum((tally.dtypes for _, tally in tallies), Counter()), status)
    if (last := tallies[-1][1].last) is not None:
        case = last[0]
        cells = {case.dtype: status}  # of the others nobody knows: the search ended there
        row = replace(row, counterexample=case.to_json(), summary=case.describe())
        row = replace(row, cause=_cause(*tallies[-1], subject, number + len(tallies) - 1))
    if requirement.id == "NUM-1" and refused:
        status, message = "failed", "; ".join(f"{d} is claimed, yet {text}" for d, text in refused.items())
        cells |= dict.fromkeys(refused, status)
    listed = tuple(Cell(subject.device, dtype, cell) for dtype, cell in cells.items())
    return replace(row, status=status, message=message, cells=listed), events


def level_for(requirement: Requirement, subject: Subject) -> str:
    """The level that applies to a subject: a claim can turn what is observed into a must, and the reverse."""
    if requirement.validated and subject.kind == "kernel" and not subject.scope.has("validates"):
        return "observed"
    invariant = subject.claims.features & {"batch-invariance", "run-determinism"}
    return requirement.claimed_level if requirement.claimed_level and invariant else requirement.level


def unmet(requirement: Requirement, subject: Subject, mine: list[Check]) -> list[str]:
    """Features that a requirement, or each of its checks, rests on and the subject does not claim."""
    missing = [feature for feature in requirement.rests_on if not subject.scope.has(feature)]
    about_masks = requirement.group == "MASK" or requirement.id in ABOUT_MASKS
    if about_masks and not missing and not subject.claims.features & MASK_FEATURES:
        return ["bool-mask or float-mask"]
    lacking = [check.lacks(subject.scope) for check in mine]
    if not missing and lacking and all(lacking):
        return [" or ".join(lacking[0])]
    return missing


def _works(check: Check, subject: Subject, features: list[str], number: int) -> bool:
    claims = replace(subject.claims, features=subject.claims.features | set(features))
    try:
        tally = explore(check, subject.claiming(claims), examples=TRIALS, seed_value=number, observe=True)
    except Exception:
        return False  # the convention has no way to say it
    return tally.examples > 0 and tally.failures == 0


def _cause(check: Check, tally: Tally, subject: Subject, number: int) -> str | None:
    """What the wrong output of the smallest case equals, if other wrong outputs of its dtype equal that too.

    A small case has many causes: at T = 2 one key too many is all of them.
    """
    assert tally.last is not None  # a check that has not failed has no cause
    smallest = tally.last
    try:
        if likely_cause(smallest) is None:
            return None
        # In another dtype other roundings may come on top of what is wrong.
        alike = subject.claiming(replace(subject.claims, dtypes=(smallest[0].dtype,)))
        others = explore(check, alike, examples=WITNESSES, seed_value=number, observe=True).wrong
        cause = likely_cause(smallest, *others)
    except Exception as error:  # no verdict depends on it
        return f"unknown: the suite failed to look for it: {type(error).__name__}: {error}"
    return None if cause is None else cause.sentence


def _status(tallies: list[tuple[Check, Tally]]) -> tuple[Status, str | None]:
    last = tallies[-1][1]
    if last.last is not None:
        repeats = "" if last.repeats else " (not repeatable: a second run of the same case did not fail)"
        return "failed", last.last[1].message + repeats
    for check, tally in tallies:
        needed = check.floor * tally.examples
        if (tally.effective < needed and not tally.unasked) or not tally.examples:
            return (
                "error",
                f"too few effective examples: {tally.effective} of {tally.examples}, {needed:.0f} were needed",
            )
    return "passed", None


def _observation(tallies: list[tuple[Check, Tally]]) -> str:
    """What was seen, the most frequent first, and for which faults."""
    counts: Counter[str] = Counter()
    faults: dict[str, set[str]] = {}
    seen = sum((tally.seen for _, tally in tallies), Counter())
    for (fault, text), count in seen.items():
        counts[text] += count
        faults.setdefault(text, set()).add(fault)
    parts = []
    for text, count in counts.most_common():
        named = sorted(faults[text] - {"none"}) if text != AS_REQUIRED else []
        parts.append(f"{text} ({count}{': ' if named else ''}{', '.join(named)})")
    return "; ".join(parts)
