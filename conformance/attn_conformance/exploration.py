"""Exploration: one check on many drawn cases, by Hypothesis, and what the examples have shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky

from attn_conformance.audit import auditing
from attn_conformance.cases import Case, KernelCase
from attn_conformance.cases.events import occurring
from attn_conformance.endings import out_of_memory
from attn_conformance.independent import BACKEND
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.registry import Check, Outcome
from attn_conformance.subject import Subject

Watch = Callable[[Check, Case], Failed | None]
"""Told of each case before the implementation gets it; gives what is known of it already, which is then not run."""

AS_REQUIRED = "as the requirement says"
"""What is recorded where a requirement that is merely observed holds."""


@dataclass
class Tally:
    """What the examples of one check have shown so far."""

    examples: int = 0
    effective: int = 0
    failures: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: tuple[Case, Failed] | None = None
    last: tuple[Case, Failed] | None = None
    repeats: bool = True
    unasked: str | None = None
    wrong: list[tuple[Case, Failed]] = field(default_factory=list)
    copied: set[str] = field(default_factory=set)


def unwatched(check: Check, case: Case) -> None:
    """Nobody is told, nothing is known."""


def explore(
    check: Check,
    subject: Subject,
    *,
    examples: int,
    seed_value: int,
    observe: bool = False,
    watch: Watch = unwatched,
    audit: bool = False,
) -> Tally:
    """Run a check on up to `examples` cases; a failing case is kept as found and, as `last`, as small as it gets.

    observe: record what happens in each example, and which outputs were wrong, and judge nothing. audit: listen to the
    first example for calls of the reference, which `copied` names then.
    """
    tally = Tally()

    @settings(
        max_examples=examples,
        backend=BACKEND,
        database=None,  # the same seed gives the same cases, whatever earlier runs found
        deadline=None,  # effort is counted in examples, never in seconds
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=(
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ),
        report_multiple_bugs=False,
        verbosity=Verbosity.quiet,
        print_blob=False,
    )
    @seed(seed_value)
    @given(check.cases(check.narrowed(subject.scope)))
    def example(case: Case) -> None:
        searching = tally.first is None
        if tally.first is not None and out_of_memory(tally.first[1].message) and case != tally.first[0]:
            return  # each attempt to make it smaller would fill the memory again
        if searching:
            tally.examples += 1
            tally.dtypes[case.dtype] += 1
            tally.events.update(occurring(case))
        listening = auditing() if audit and searching and tally.examples == 1 else nullcontext(tally.copied)
        try:
            with listening as heard:
                outcome, failed = attempt(check, subject, case, watch)
            tally.copied |= heard
        except NotAsked as reason:
            tally.unasked = str(reason)
            return
        if failed is None:
            if searching:
                tally.effective += outcome is not False
                if observe:
                    seen = outcome if isinstance(outcome, str) else AS_REQUIRED
                    tally.seen[_fault(case), seen] += 1
            return
        tally.failures += 1
        if observe:
            tally.seen[_fault(case), failed.message.partition(":")[0]] += 1
            if failed.evidence is not None:
                tally.wrong.append((case, failed))
            return
        tally.first = tally.first or (case, failed)
        tally.last = (case, failed)
        raise failed

    # Whatever Hypothesis makes of a failure (also of one that did not repeat), the tally has it.
    try:
        example()
    except Failed:
        pass
    except Flaky:
        tally.repeats = False
    return tally


def _fault(case: Case) -> str:
    return case.fault if isinstance(case, KernelCase) else "none"


def attempt(
    check: Check, subject: Subject, case: Case, watch: Watch = unwatched
) -> tuple[Outcome, Failed | None]:
    """The outcome of one example, or its failure without the traceback, which would keep every array alive."""
    if (known := watch(check, case)) is not None:
        return False, known
    try:
        return check.function(subject.open(), case), None
    except Failed as failed:
        return False, failed.told(failed.message)
