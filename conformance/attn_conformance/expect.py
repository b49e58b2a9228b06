"""What most checks expect: the reference's value, the same as another call, or an exception."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import Call
from attn_conformance.judge import Answer, Evidence, Failed, NotAsked, compare, moves
from attn_conformance.subject import Raised, Subject
from attn_reference import Problem

Array = NDArray[Any]

LOOSER: dict[str, tuple[str, ...]] = {
    "float64": ("float32",),
    "float32": ("tf32",),
    "float16": ("fused", "eager"),
    "bfloat16": ("fused", "eager"),
}
"""By dtype, the looser claims whose lack alone may be to blame for a failure, the strictest first."""

ALLOWED_BY = "within the bound of"
"""How the line begins that names one."""


def within(got: Array, answer: Answer, what: str = "differs from the reference") -> None:
    """Every element of `got` is within the answer's limit, else Failed."""
    comparison = compare(got, answer)
    if not comparison.ok:
        message = f"{what}: {comparison.explain()}{_looser(got, answer)}"
        raise Failed(message, comparison, Evidence(got, answer))


def _looser(got: Array, answer: Answer) -> str:
    """A line on the claim that would allow an output, and how to make it; "" if none would."""
    for name in LOOSER[answer.dtype] if answer.under is not None else ():
        if not compare(got, answer.claiming(name)).ok:
            continue
        if name == "float32":
            how = ": something in it is computed in float32, which --dtype without float64 leaves out"
        else:
            how = f" arithmetic, which --with {name} claims (now: {answer.arithmetic})"
        return f"\n{ALLOWED_BY} {name}{how}"
    return ""


def allowed_by(message: str | None) -> str | None:
    """The arithmetic or dtype that would allow what a failure's message tells of; None if nothing would."""
    lines = (line for line in (message or "").splitlines() if line.startswith(ALLOWED_BY))
    return next((line.removeprefix(ALLOWED_BY).split()[0].rstrip(":") for line in lines), None)


def reference(
    subject: Subject, call: Call, without: Callable[[Problem], Problem] | Call | None = None
) -> bool:
    """The subject's output equals the reference's; True if the feature that `without` removes mattered.

    without: the same problem with the feature left out or misread, as a call or as a change of the problem; None
    if the feature cannot be left out.
    """
    answer = subject.answer(call)
    within(subject.attention(call), answer)
    if without is None:
        return True
    if isinstance(without, Call):
        return moves(answer, subject.lower(without))
    return moves(answer, without(subject.lower(call)))


def answered(subject: Subject, call: Call) -> Array | None:
    """The output of a call, or None if it raised: which the requirements that draw such calls judge."""
    try:
        return subject.attention(call)
    except Raised:
        return None


def same(first: Array, second: Array, answer: Answer, what: str, evidence: Sequence[Evidence] = ()) -> None:
    """Two outputs of one problem agree: each may lie within the limit of one truth.

    evidence: both with their problems, where these are not `answer`'s, or where they are parts of larger outputs.
    """
    either = answer.doubled(first)
    comparison = compare(second, either)
    if not comparison.ok:
        shown = evidence or (Evidence(first, answer), Evidence(second, answer))
        wrong = next((one for one in shown if not compare(one.got, one.answer).ok), None)
        raise Failed(f"{what}: {comparison.explain()}{_looser(second, either)}", comparison, wrong)


def rejection(subject: Subject, call: Call, natives: dict[str, Any] | None = None) -> Exception:
    """The exception with which the subject rejects a call; Failed if it returns numbers, or would end the program."""
    try:
        result = subject.run(call, natives)
    except Raised as raised:
        if isinstance(raised.error, Exception):
            return raised.error
        raise
    raise Failed(f"accepted the call: numbers of shape {result.out.shape} came back")


def rejected(subject: Subject, call: Call, natives: dict[str, Any] | None = None) -> Exception:
    """The exception with which the subject rejects a call; NotAsked if it accepts, which other requirements judge."""
    try:
        return rejection(subject, call, natives)
    except Failed as failed:
        raise NotAsked("the calls were not rejected, which other requirements judge") from failed


def untouched(subject: Subject, call: Call, natives: dict[str, Any]) -> None:
    """The native arguments still hold the call's values, bit for bit, else Failed."""
    arguments = subject.arguments(call)
    for name, array in subject.read(natives).items():
        before = arguments[name]
        if before.tobytes() != array.tobytes():
            where = np.argwhere(before != array)
            at = f", first at [{', '.join(map(str, where[0]))}]" if len(where) else ""
            raise Failed(f"modified its argument {name} in place{at}")
