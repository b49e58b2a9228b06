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
    check: whether the case passes the check of the one requirement in judged_by.
    """

    case: Case
    judged_by: tuple[str, ...]
    asked: Literal["value", "bound", "repeat", "shape", "check"] = "value"


def resting(requirement: str, grounds: Iterable[Ground], subject: Subject, failed: Failed) -> tuple[str, ...]:
    """The requirements that judge the first ground of a failed example that fails, too; () if none does.

    Also () if the requirement is one of them: then it has something simpler to tell of. A result that is merely inexact
    rests on NUM-1, and on grounds that are inexact as well. One that is further off does not rest on those, nor does
    one of NUM-1.
    """
    small = inexact(failed) and requirement != PRECISION
    found: set[str] = {PRECISION} if small else set()
    first = next((ground for ground in grounds if broken(subject, ground, strict=small)), None)
    if first is not None and requirement not in first.judged_by:
        found.update(first.judged_by)
    return tuple(sorted(found))


def broken(subject: Subject, ground: Ground, *, strict: bool = False) -> bool:
    """Whether a ground fails by more than precision, or two calls differ, on a subject that has seen nothing yet.

    strict: whether it fails at all. What is not claimed is not asked, and not broken.
    """
    if not _claimed(subject, ground.case):
        return False
    fresh = subject.open()
    try:
        if ground.asked == "check":
            _pass(fresh, ground)
        elif ground.asked == "repeat":
            return not _repeats(fresh, ground.case)
        elif ground.asked == "shape":
            _answer(fresh, ground.case)
        elif isinstance(ground.case, ScriptCase):
            _play(fresh, ground.case, strict=strict)
        elif strict or ground.asked == "bound":
            return not _within(fresh, ground.case)
        else:
            return _far_off(fresh, ground.case)
    except Failed as failed:
        return strict or ground.asked in ("shape", "check") or not inexact(failed)
    except NotAsked:
        pass
    return False


def _claimed(subject: Subject, case: Case) -> bool:
    """Whether a subject claims what a case needs."""
    scope = subject.scope
    needs: set[str] = set()
    if isinstance(case, ScriptCase):
        needs = {"cross"} if any(step.act == "cross" for step in case.steps) else set()
        needs |= {"cache"} if any(step.act != "plain" for step in case.steps) else set()
        needs |= {"bool-mask"} if any(step.masked for step in case.steps) else set()
    elif isinstance(case, KernelCase):
        if case.window not in scope.windows:
            return False
        direct = case.window in ("kernel", "qkv")
        if direct and scope.claims.head_sizes and case.head_size not in scope.claims.head_sizes:
            return False
        needs = {"cross"} if direct and case.keys != case.queries else set()
    elif isinstance(case, ForwardCase):
        needs = {"cross"} if case.keys is not None else set()
    if isinstance(case, (KernelCase, ForwardCase)) and case.mask is not None:
        floating = {"q": "float-mask", "float32": "float32-mask"}
        needs.add(floating.get(case.mask.dtype, "bool-mask"))
    if getattr(case, "causal", False):
        needs.add("causal")
    return all(scope.has(feature) for feature in needs)


def _pass(subject: Subject, ground: Ground) -> None:
    """Failed if the check of a ground's requirement fails on its case."""
    from attn_conformance.registry import checks  # whose checks have grounds

    (requirement,) = ground.judged_by
    check = next(one for one in checks()[requirement] if subject.kind in one.kinds)
    check.function(subject, ground.case)


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
    y = _of_its_dtype(subject.forward(forward), case)
    return compare(y[:, None], subject.answer_forward(forward)).ok


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
    """Whether a result differs from the reference by more than precision; Failed if there is none."""
    if isinstance(case, KernelCase):
        call = build(case)
        return not _near(subject.attention(call), ask(subject.lower(call), "bfloat16", "eager"))
    assert isinstance(case, ForwardCase)
    assert isinstance(subject, ModuleSubject)
    forward = build_forward(case)
    y = _of_its_dtype(subject.forward(forward), case)
    return not _near(y[:, None], _low(subject.answer_forward(forward)))


def _of_its_dtype(y: Array, case: ForwardCase) -> Array:
    """A result of forward, if it has x's dtype; else Failed."""
    if y.dtype.name != case.dtype:
        raise Failed(f"x is {case.dtype}, the result {y.dtype.name}")
    return y


def _play(subject: Subject, case: ScriptCase, *, strict: bool) -> None:
    """Failed at the first step of a script that is off by more than precision; if strict, that is off at all."""
    assert isinstance(subject, ModuleSubject)
    stage = Stage(subject, case)
    for step in case.steps:
        try:
            stage.act(step)
        except Failed as failed:
            if strict or not inexact(failed):
                raise


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
