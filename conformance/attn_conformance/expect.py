"""What most checks expect: the reference's value, the same as another call, or an exception."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import Call
from attn_conformance.judge import Answer, Evidence, Failed, NotAsked, ask, compare, moves
from attn_conformance.subject import Raised, Subject
from attn_reference import Arithmetic, Problem

Array = NDArray[Any]

LOOSER: tuple[Arithmetic, ...] = ("fused", "eager", "tf32")
"""Arithmetics from which a failure may come that only the claim is to blame for, the strictest first."""

ALLOWED_BY = "within the bound of"
"""How the line begins that names a looser arithmetic."""


def within(got: Array, answer: Answer, what: str = "differs from the reference") -> None:
    """Every element of `got` is within the answer's limit, else Failed."""
    comparison = compare(got, answer)
    if not comparison.ok:
        raise Failed(f"{what}: {comparison.explain()}", comparison, Evidence(got, answer))


def reference(
    subject: Subject, call: Call, without: Callable[[Problem], Problem] | Call | None = None
) -> bool:
    """The subject's output equals the reference's; True if the feature that `without` removes mattered.

    without: the same problem with the feature left out or misread, as a call or as a change of the problem; None
    if the feature cannot be left out.
    """
    answer = subject.answer(call)
    got = subject.attention(call)
    try:
        within(got, answer)
    except Failed as failed:
        raise failed.told(failed.message + _looser(subject, call, got)) from None
    if without is None:
        return True
    if isinstance(without, Call):
        return moves(answer, subject.lower(without))
    return moves(answer, without(subject.lower(call)))


def _looser(subject: Subject, call: Call, got: Array) -> str:
    """Which arithmetic would allow the output that the claimed one does not, and how to claim it."""
    problem, claimed = subject.lower(call), subject.claims.arithmetic
    for arithmetic in LOOSER:
        if compare(got, ask(problem, call.dtype, arithmetic)).ok:
            return (
                f"\n{ALLOWED_BY} {arithmetic} arithmetic, which --with {arithmetic} claims (now: {claimed})"
            )
    return ""


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
    comparison = compare(second, answer.doubled(first))
    if not comparison.ok:
        shown = evidence or (Evidence(first, answer), Evidence(second, answer))
        wrong = next((one for one in shown if not compare(one.got, one.answer).ok), None)
        raise Failed(f"{what}: {comparison.explain()}", comparison, wrong)


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
