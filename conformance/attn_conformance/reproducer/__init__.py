"""Reproducer: a failure as a script of its own, proved before it is shown.

The failing case is played once more while every call is noted, and once by the reference; where the two part, a script
makes the same calls and exits 1. Where a gradient is wrong, it makes one call and its backward pass. It is kept if it
does so on the target, and exits 0 with the reference in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from attn_conformance.cases import Case
from attn_conformance.judge import Failed
from attn_conformance.registry import Check
from attn_conformance.reproducer.differences import Finding, findings
from attn_conformance.reproducer.gradients import gradient_drafts
from attn_conformance.reproducer.planning import Plan, plans
from attn_conformance.reproducer.proof import Execute, execute_in_subprocess, proved
from attn_conformance.reproducer.recording import recording
from attn_conformance.reproducer.script import MOST_LINES, Subjects, written
from attn_conformance.reproducer.simpler import VARIANTS
from attn_conformance.reproducer.substitute import again, reference_for, replay, simplified
from attn_conformance.subject import Subject
from attn_reference.requirements import load_requirements

__all__ = ["Execute", "Reproducer", "execute_in_subprocess", "reproducer"]

BESIDE = {
    "MEM": "memory is no matter of what a call gives, and the reference holds its scores",
    "HOST": "life inside PyTorch, where the reference cannot take the target's place",
}
"""Groups of requirements that no script is written for, and why."""

MOST_TRIED = 8
"""Drafts that are tried, the shortest first."""

FINDINGS = 2
"""Findings of each recording that drafts are written for, the likeliest first."""


@dataclass(frozen=True)
class Reproducer:
    """A proved script, or the reason why there is none: exactly one of them is None."""

    script: str | None
    reason: str | None


def reproducer(
    check: Check, subject: Subject, case: Case, failed: Failed, execute: Execute, *, deadly: str | None = None
) -> Reproducer:
    """The shortest script found that shows a failure of a check on a case, and is proved by `execute`.

    deadly: "crash" or "hang" where the target ends the process in this case: it is then called by the script alone.
    """
    group = check.requirement.partition("-")[0]
    if group in BESIDE:
        return Reproducer(None, BESIDE[group])
    reasons: list[str] = []
    if group == "GRAD" and deadly is None:
        drafts = list(gradient_drafts(check, subject, case, reasons))
    else:
        drafts = list(_drafts(check, subject, case, failed, deadly, reasons))
    for draft in sorted(dict.fromkeys(drafts), key=len)[:MOST_TRIED]:
        if proved(draft, execute, deadly=deadly):
            return Reproducer(draft, None)
    if drafts:
        return Reproducer(None, "no script that was tried fails on the target and passes on the reference")
    return Reproducer(None, reasons[-1])


def _drafts(
    check: Check, subject: Subject, case: Case, failed: Failed, deadly: str | None, reasons: list[str]
) -> Iterator[str]:
    """Scripts for what the recording of a case shows; why there are none is added to reasons."""
    requirement = load_requirements()[check.requirement]
    played = subject if deadly is None else reference_for(subject)
    noted, log = recording(played.open())
    try:
        check.function(noted, case)
    except Failed as again:
        failed = again
    except Exception as error:
        reasons.append(f"the case could not be played again: {type(error).__name__}: {error}")
        return
    else:
        if deadly is None:
            reasons.append("played again, the case did not fail")
            return
    for variant in VARIANTS:
        try:
            other = simplified(log, played, variant) if variant != VARIANTS[-1] else log
            if deadly is None:
                found = findings(other, replay(other, subject), failed, subject, requirement)
            else:
                found = [Finding("deadly", len(other.events) - 1)]
            if not found:
                reasons.append("no call by itself gives anything else than the reference does")
            about = Subjects(requirement, subject, case, other, deadly)
            yield from _texts(about, found[:FINDINGS], reasons)
        except Exception as error:  # a script is an extra: a failure is told without it
            reasons.append(f"it could not be written: {type(error).__name__}: {error}")


def _texts(about: Subjects, found: list[Finding], reasons: list[str]) -> Iterator[str]:
    for finding in found:
        possible = plans(about.log, finding)
        if about.deadly is None:
            # Of a target that is not the same twice, nothing can be told beforehand.
            possible = [plan for plan in possible if _promises(about, finding, plan)] or possible
        for plan in possible:
            text = written(about, finding, plan)
            if text is not None:
                yield text
            else:
                reasons.append(f"it takes more than {MOST_LINES} lines")


def _promises(about: Subjects, finding: Finding, plan: Plan) -> bool:
    """Whether the last event of a plan ends as it was recorded, without the events that the plan leaves out."""
    recorded = about.log.events[finding.event].outcome
    now = again(about.log, about.subject, plan.events, views=plan.views)
    return now is not None and not recorded.differs(now)
