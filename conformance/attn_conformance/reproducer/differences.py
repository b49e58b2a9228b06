"""Differences: where the target and the reference part, as findings that a script can check."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.judge import Failed
from attn_conformance.reproducer.oracle import judged
from attn_conformance.reproducer.recording import Event, Log, Outcome
from attn_conformance.reproducer.settings import SETTINGS
from attn_conformance.subject import Subject
from attn_reference.requirements import Requirement

Array = NDArray[Any]

TOLD = (
    (r"^a call changed ", {"setting"}),
    (r"the message ", {"message"}),
    (r"(raised .*|construction .*)ValueError (was|is) expected", {"wrong-exception"}),
    (r"accepted |gave numbers of shape", {"accepted"}),
    (r"random generator", {"random"}),
    (r"modified its argument", {"changed"}),
    (r"modified the parameter", {"value", "dtype", "shape"}),
    (r"changed the cache", {"cache"}),
    (r"the cache has length", {"length"}),
    (r"has no attribute", {"attribute"}),
    (r"(returned|has) shape", {"shape"}),
    (r"returned the wrong type", {"odd"}),
    (r", the result ", {"dtype"}),
    (r"raised ", {"raised"}),
)
"""What a failure's message tells of the kinds of its findings: the first line that is found in it."""

NUMBERS = {"value", "nan", "repeat"}
"""Kinds of findings where a message tells of none of these."""

SAME_CALL = "the same call gave another result"
"""What a message says where two calls are to be compared, and not one of them with its answer."""

CALLS = ("call", "forward", "attention", "step")
"""Acts that give a result."""

TINY = 1e-30
"""Bounds of numbers that are 0 but for rounding."""

NAMES = ("n_head", "causal", "query", "key", "value", "out")
"""The attributes of CTOR-4."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with one event.

    kind: value (an element), nan (it is no NaN where it must be one), raised (in place of a result), accepted (in
    place of an exception), wrong-exception, message, odd (no array), shape, dtype, changed (an argument), cache (of a
    rejected call), random (a global generator was used), setting (of the process, perhaps changed by it), attribute (of
    CTOR-4), length, repeat (differs from an equal call), deadly. event: its number. index, expected, limit: of an
    element. name: of the result, the exception, the generator, the setting or the parameter. other: the number of the
    equal event. most: the largest limit of any element.
    """

    kind: str
    event: int
    index: tuple[int, ...] = ()
    expected: Any = None
    limit: float = 0.0
    name: str = ""
    other: int = 0
    most: float = 0.0


def findings(
    log: Log, theirs: list[Outcome | None], failed: Failed, subject: Subject, requirement: Requirement
) -> list[Finding]:
    """What a script may check, of the kinds that the failure tells of, in the order of the events.

    theirs: what the reference made of the events. failed: the failure that was recorded first.
    """
    kinds = NUMBERS
    if failed.comparison is None:
        kinds = next((kinds for told, kinds in TOLD if re.search(told, failed.message)), NUMBERS)
    if kinds == {"setting"}:
        return list(_settings(log, failed))
    found = [*_plain(log, theirs, requirement)]
    if kinds & NUMBERS:
        found += _values(log, theirs, subject)
    if SAME_CALL in failed.message:
        found = list(_repeats(log, found)) or found
    return [finding for finding in found if finding.kind in kinds]


def _pairs(log: Log, theirs: list[Outcome | None]) -> Iterator[tuple[int, Event, Outcome, Outcome]]:
    for number, (event, other) in enumerate(zip(log.events, theirs, strict=True)):
        if other is not None:
            yield number, event, event.outcome, other


def _plain(log: Log, theirs: list[Outcome | None], requirement: Requirement) -> Iterator[Finding]:
    """What shows in an event without looking at numbers."""
    for number, event, mine, other in _pairs(log, theirs):
        if mine.error is not None and other.error is None:
            yield Finding("raised", number)
        if other.error is not None and mine.error is None:
            # Where ValueError is meant, the requirement says so; elsewhere any exception does.
            meant = "ValueError" if "ValueError" in requirement.text else "Exception"
            yield Finding("accepted", number, name=meant)
        if mine.error is not None and other.error is not None:
            if isinstance(other.error, ValueError) and not isinstance(mine.error, ValueError):
                yield Finding("wrong-exception", number)
            elif str(mine.error) != str(other.error):
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
        # A module may draw its first weights, and is built before the state is looked at.
        if mine.drew and not other.drew and event.act != "build":
            yield Finding("random", number, name=mine.drew)
        if requirement.id == "CTOR-4" and event.act == "build" and event.made is not None:
            lacking = [name for name in NAMES if not hasattr(log.handles[event.made], name)]
            if lacking:
                yield Finding("attribute", number)
        if mine.length is not None and mine.length != other.length:
            yield Finding("length", number, expected=other.length)


def _settings(log: Log, failed: Failed) -> Iterator[Finding]:
    """The first call and the first building, for the first setting that the failure tells of.

    Which of them changed it is not to be seen: it was changed before they were recorded. The proof decides.
    """
    name = next(name for name in SETTINGS if failed.message.startswith(f"a call changed {name} from "))
    for acts in (CALLS, ("build",)):
        numbers = (number for number, event in enumerate(log.events) if event.act in acts)
        yield from (Finding("setting", number, name=name) for number in islice(numbers, 1))


def _differ(before: list[Array] | None, after: list[Array] | None) -> bool:
    if before is None or after is None:
        return False
    shown = [[(array.shape, array.tobytes()) for array in arrays] for arrays in (before, after)]
    return shown[0] != shown[1]


def _values(log: Log, theirs: list[Outcome | None], subject: Subject) -> Iterator[Finding]:
    """Of each result an element that is out of bound."""
    for number, event, mine, other in _pairs(log, theirs):
        for name, array in mine.results.items():
            right = other.results.get(name)
            if event.act == "parameters" or right is None or right.shape != array.shape or not array.size:
                continue
            comparison = judged(log, subject, number, name)
            if comparison is None or comparison.worst is None or comparison.first is None:
                continue
            # The largest ratio may be that of a tiny number with a tiny bound, which tells people little.
            wrong = max(
                comparison.worst, comparison.first, key=lambda e: (e.limit > TINY, abs(e.got - e.expected))
            )
            if np.isnan(wrong.expected):
                yield Finding("nan", number, wrong.index, name=name)
            else:
                yield Finding(
                    "value", number, wrong.index, wrong.expected, wrong.limit, name, most=comparison.most
                )


def _repeats(log: Log, values: list[Finding]) -> Iterator[Finding]:
    """Wrong results that an equal call before had otherwise: both lie within the limits of one truth, or should."""
    for value in values:
        event = log.events[value.event]
        now = event.outcome.results.get(value.name)
        for number, other in enumerate(log.events[: value.event]):
            was = other.outcome.results.get(value.name)
            if now is None or was is None or _key(log, event) != _key(log, other):
                continue
            with np.errstate(invalid="ignore"):
                apart = np.abs(now.astype(np.float64) - was.astype(np.float64))
            if not np.all(apart <= 2 * value.most):
                yield replace(value, kind="repeat", limit=2 * value.most, other=number)


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
