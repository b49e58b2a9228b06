"""Differences: where the target and the reference part, as findings that a script can check."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.judge import Failed
from attn_conformance.reproducer.recording import Event, Log, Outcome
from attn_reference.requirements import Requirement

Array = NDArray[Any]

NAMES = ("n_head", "causal", "query", "key", "value", "out")
"""The attributes of CTOR-4."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with one event.

    kind: value (an element), nan (it is no NaN where it must be one), raised (in place of a result), accepted (in
    place of an exception), wrong-exception, message, odd (no array), shape, dtype, changed (an argument), cache (of a
    rejected call), random (a global generator was used), attribute (of CTOR-4), length, repeat (differs from an equal call), deadly. event: its number. index, expected,
    limit: of an element. name: of the result, the argument or the parameter. other: the number of the equal event.
    """

    kind: str
    event: int
    index: tuple[int, ...] = ()
    expected: Any = None
    limit: float = 0.0
    name: str = ""
    other: int = 0


COARSE = {"float64": 1e-3, "float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""What elements of ordinary size may differ by where nobody has computed their bound, which is far smaller."""


def findings(
    log: Log,
    theirs: list[Outcome | None],
    failed: Failed,
    requirement: Requirement,
    *,
    coarse: bool = False,
) -> list[Finding]:
    """What a script may check, the likeliest to be what the requirement is about first.

    theirs: what the reference made of the events. failed: the failure that was recorded. coarse: whether the arrays
    are others than those that failed, so that only a coarse difference counts.
    """
    plain = list(_plain(log, theirs, failed, requirement))
    if coarse:
        numbers = list(_coarse(log, theirs))
    else:
        numbers = [*_values(log, theirs, failed), *_repeats(log, theirs, failed)]
    return [*numbers, *plain] if failed.comparison is not None else [*plain, *numbers]


def _pairs(log: Log, theirs: list[Outcome | None]) -> Iterator[tuple[int, Event, Outcome, Outcome]]:
    for number, (event, other) in enumerate(zip(log.events, theirs, strict=True)):
        if other is not None:
            yield number, event, event.outcome, other


def _plain(
    log: Log, theirs: list[Outcome | None], failed: Failed, requirement: Requirement
) -> Iterator[Finding]:
    """What shows in an event without looking at numbers."""
    message = failed.message
    for number, event, mine, other in _pairs(log, theirs):
        if mine.error is not None and other.error is None:
            yield Finding("raised", number)
        if other.error is not None and mine.error is None:
            # Where ValueError is meant, the requirement says so; elsewhere any exception does.
            meant = "ValueError" if "ValueError" in requirement.text else "Exception"
            yield Finding("accepted", number, name=meant)
        if mine.error is not None and other.error is not None:
            if isinstance(other.error, ValueError) and not isinstance(mine.error, ValueError):
                if "ValueError was expected" in message:
                    yield Finding("wrong-exception", number)
            elif str(mine.error) != str(other.error) and "message" in message:
                yield Finding("message", number)
        if mine.odd is not None:
            yield Finding("odd", number)
        for name, array in mine.results.items():
            right = other.results.get(name)
            if right is None:
                continue
            if array.shape != right.shape:
                yield Finding("shape", number, expected=right.shape, name=name)
            elif array.dtype != right.dtype:
                yield Finding("dtype", number, expected=right.dtype.name, name=name)
            elif event.act == "parameters" and array.tobytes() != right.tobytes():
                at = tuple(int(n) for n in np.argwhere(array != right)[0])
                yield Finding("value", number, at, float(right[at]), 0.0, name)
        for ref in mine.changed:
            if ref not in other.changed and any(ref == value for value in event.given.values()):
                yield Finding("changed", number, expected=ref)
        if mine.error is not None and _differ(mine.before, mine.after):
            yield Finding("cache", number)
        if mine.drew and not other.drew:
            yield Finding("random", number, name=mine.drew)
        if requirement.id == "CTOR-4" and event.act == "build" and event.made is not None:
            lacking = [name for name in NAMES if not hasattr(log.handles[event.made], name)]
            if lacking:
                yield Finding("attribute", number)
        if mine.length is not None and mine.length != other.length:
            yield Finding("length", number, expected=other.length)


def _differ(before: list[Array] | None, after: list[Array] | None) -> bool:
    if before is None or after is None:
        return False
    shown = [[(array.shape, array.tobytes()) for array in arrays] for arrays in (before, after)]
    return shown[0] != shown[1]


def _values(log: Log, theirs: list[Outcome | None], failed: Failed) -> Iterator[Finding]:
    """Elements that are wrong: that of the failed comparison, else the worst of each event."""
    worst = None if failed.comparison is None else failed.comparison.worst
    compared = [
        (number, name, array.astype(np.float64), other.results[name].astype(np.float64))
        for number, event, mine, other in _pairs(log, theirs)
        for name, array in mine.results.items()
        if event.act != "parameters" and getattr(other.results.get(name), "shape", None) == array.shape
    ]
    if worst is not None:
        for number, name, mine, right in reversed(compared):
            with np.errstate(invalid="ignore"):
                same = (mine == worst.got) | (np.isnan(mine) & np.isnan(worst.got))
                near = np.abs(right - worst.expected) <= worst.limit
            if np.any(same & near):
                at = tuple(int(n) for n in np.argwhere(same & near)[0])
                yield Finding("value", number, at, worst.expected, worst.limit, name)
                break
    for number, name, mine, right in compared:
        if not mine.size:
            continue
        with np.errstate(invalid="ignore"):
            error = np.abs(mine - right)
        error = np.where(np.isnan(mine) != np.isnan(right), np.inf, np.where(mine == right, 0, error))
        error = np.where(np.isnan(mine) & np.isnan(right), 0, error)
        at = tuple(int(n) for n in np.unravel_index(int(np.argmax(error)), error.shape))
        if np.isnan(right[at]) and not np.isnan(mine[at]):
            yield Finding("nan", number, at, name=name)
            continue
        # Without a bound at hand an element is wrong if it is NaN, or something where nothing is due.
        known = worst is not None or right[at] == 0
        if worst is not None:
            limit = worst.limit
        else:
            limit = 0.0 if known else abs(float(right[at])) / 100
        if error[at] > limit and (known or not np.isfinite(mine[at])):
            yield Finding("value", number, at, float(right[at]), limit, name)


def _coarse(log: Log, theirs: list[Outcome | None]) -> Iterator[Finding]:
    """The worst element of each result that is far off."""
    for number, event, mine, other in _pairs(log, theirs):
        for name, array in mine.results.items():
            right = other.results.get(name)
            if event.act == "parameters" or right is None or right.shape != array.shape or not array.size:
                continue
            limit = COARSE[right.dtype.name]
            with np.errstate(invalid="ignore"):
                error = np.abs(array.astype(np.float64) - right.astype(np.float64))
            error = np.where(np.isnan(error), np.inf, error)
            at = tuple(int(n) for n in np.unravel_index(int(np.argmax(error)), error.shape))
            if error[at] > limit and abs(float(right[at])) < 10:
                yield Finding("value", number, at, float(right[at]), limit, name)


def _repeats(log: Log, theirs: list[Outcome | None], failed: Failed) -> Iterator[Finding]:
    """Equal calls with unequal results."""
    worst = None if failed.comparison is None else failed.comparison.worst
    limit = 0.0 if worst is None else worst.limit
    calls = [(number, event) for number, event, _, _ in _pairs(log, theirs) if event.outcome.results]
    for place, (number, event) in enumerate(calls):
        for earlier, other in calls[:place]:
            if _key(log, event) != _key(log, other):
                continue
            for name, array in event.outcome.results.items():
                was = other.outcome.results.get(name)
                if was is None or was.shape != array.shape:
                    continue
                with np.errstate(invalid="ignore"):
                    if not np.all(np.abs(array.astype(np.float64) - was.astype(np.float64)) <= limit):
                        yield Finding("repeat", number, limit=limit, name=name, other=earlier)


def _key(log: Log, event: Event) -> Any:
    def plain(value: Any) -> Any:
        number = getattr(value, "number", None)
        if number is None:
            return repr(value)
        held = log.arrays[number]
        return held.first.shape, held.first.dtype.name, held.first.tobytes()

    stateless = event.act in ("call", "forward", "attention")
    given = tuple((name, plain(value)) for name, value in event.given.items())
    return (event.act, event.of, given) if stateless else object()
