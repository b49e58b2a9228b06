"""Grounds: the simpler cases that an example rests on. If these fail as well, its failure is no news."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from attn_conformance.cases import Case, ForwardCase, KernelCase, ScriptCase, build, build_forward
from attn_conformance.judge import Answer, Failed, NotAsked, ask, compare
from attn_conformance.module_subject import ModuleSubject
from attn_conformance.stage import Stage
from attn_conformance.subject import Array, Subject

PRECISION = "NUM-1"
"""The requirement that judges how exact results are: all that are compared with the reference rest on it."""

INEXACT = 2.0
"""An error of up to so many times what storing every array in bfloat16 may make is one of precision."""


@dataclass(frozen=True)
class Ground:
    """A case that is simpler than an example of a check. judged_by: requirements that judge such cases.

    asked: whether the result is right, whether a second call repeats it, or no more than whether its shape is right.
    bound: whether it is right to within the bound of what is claimed, so that a merely inexact one is wrong as well.
    """

    case: Case
    judged_by: tuple[str, ...]
    asked: Literal["value", "bound", "repeat", "shape"] = "value"


def resting(requirement: str, grounds: Iterable[Ground], subject: Subject, failed: Failed) -> tuple[str, ...]:
    """The requirements that judge the first ground of a failed example that fails, too; () if none does.

    Also () if the requirement is one of them: then it has something simpler to tell of. A result that is merely inexact
    rests on NUM-1. One that is further off does not rest on one that is inexact.
    """
    small = inexact(failed)
    if small and requirement == PRECISION:
        return ()
    found: set[str] = {PRECISION} if small else set()
    first = next((ground for ground in grounds if broken(subject, ground)), None)
    if first is not None and requirement not in first.judged_by:
        found.update(first.judged_by)
    return tuple(sorted(found))


def broken(subject: Subject, ground: Ground) -> bool:
    """Whether a ground fails by more than precision, or two calls differ, on a subject that has seen nothing yet."""
    fresh = subject.open()
    try:
        if ground.asked == "bound":
            return not _within(fresh, ground.case)
        if ground.asked == "repeat":
            return not _repeats(fresh, ground.case)
        if ground.asked == "value":
            return _far_off(fresh, ground.case)
        _answer(fresh, ground.case)
    except Failed as failed:
        return ground.asked == "shape" or not inexact(failed)
    except NotAsked:
        pass
    return False


def _answer(subject: Subject, case: Case) -> None:
    """Failed if a call raises, or gives something of a wrong shape."""
    if isinstance(case, KernelCase):
        subject.attention(build(case))
    elif isinstance(case, ForwardCase) and isinstance(subject, ModuleSubject):
        subject.forward(build_forward(case))


def _within(subject: Subject, case: Case) -> bool:
    """Whether a result is within its bound; Failed if there is none."""
    if isinstance(case, KernelCase):
        call = build(case)
        return compare(subject.attention(call), subject.answer(call)).ok
    assert isinstance(case, ForwardCase)
    assert isinstance(subject, ModuleSubject)
    forward = build_forward(case)
    return compare(subject.forward(forward)[:, None], subject.answer_forward(forward)).ok


def _repeats(subject: Subject, case: Case) -> bool:
    """Whether the second of two calls agrees with the first; True if they fail in other ways."""
    try:
        if isinstance(case, KernelCase):
            call = build(case)
            answer, first = subject.answer(call), subject.attention(call)
            second = subject.attention(call)
        elif isinstance(case, ForwardCase) and isinstance(subject, ModuleSubject):
            forward = build_forward(case)
            handle = subject.build(forward.params, forward.n_head, forward.is_causal)
            answer = subject.answer_forward(forward)
            first, second = (subject.forward(forward, handle)[:, None] for _ in range(2))
        else:
            return True
    except Failed:
        return True
    return compare(second, answer.doubled(first)).ok


def _far_off(subject: Subject, case: Case) -> bool:
    """Whether a result differs from the reference by more than precision; Failed if there is none, or in a script."""
    if isinstance(case, KernelCase):
        call = build(case)
        return not _near(subject.attention(call), ask(subject.lower(call), "bfloat16", "eager"))
    assert isinstance(subject, ModuleSubject)
    if isinstance(case, ForwardCase):
        forward = build_forward(case)
        return not _near(subject.forward(forward)[:, None], _low(subject.answer_forward(forward)))
    assert isinstance(case, ScriptCase)
    Stage(subject, case).play()
    return False


def inexact(failed: Failed) -> bool:
    """Whether a wrong result is off by no more than roundings of low precision might be."""
    evidence = failed.evidence
    if evidence is None or evidence.answer.under is None:
        return False
    return _near(evidence.got, _low(evidence.answer))


def _low(answer: Answer) -> Answer:
    """What the loosest claim in the least precise dtype would allow."""
    assert answer.under is not None
    return answer.under("bfloat16", "eager")


def _near(got: Array, low: Answer) -> bool:
    return compare(got, replace(low, limit=INEXACT * low.limit)).ok
