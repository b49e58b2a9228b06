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
from attn_conformance.expect import allowed_by
from attn_conformance.grounds import resting
from attn_conformance.independent import BACKEND
from attn_conformance.judge import Deadly, Failed, NotAsked
from attn_conformance.registry import Check, Outcome
from attn_conformance.subject import Subject

Watch = Callable[[Check, Case], Failed | None]
"""Told of each case before the implementation gets it; gives what is known of it already, which is then not run."""

AS_REQUIRED = "as the requirement says"
"""What is recorded where a requirement that is merely observed holds."""

ENOUGH = 8
"""Failures that rest on something simpler, after which a check asks no more: each takes several calls to tell."""


@dataclass
class Tally:
    """What the examples of one check have shown so far.

    examples and all that is counted with them: until the first failure. lesser: one that a looser claim would allow, or
    that rests on something simpler which fails, too; resting: of all of these, the requirements that judge it. first,
    last: a failure as found and as small as it gets. wrong: failures that were merely recorded.
    """

    examples: int = 0
    effective: int = 0
    failures: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    seen: Counter[tuple[str, str]] = field(default_factory=Counter)
    first: tuple[Case, Failed] | None = None
    last: tuple[Case, Failed] | None = None
    lesser: tuple[Case, Failed] | None = None
    resting: list[tuple[str, ...]] = field(default_factory=list)
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
    shrink: bool = True,
) -> Tally:
    """Run a check on up to `examples` cases; a failing case is kept as found and, as `last`, as small as it gets.

    A failure that a looser claim would allow, or that rests on something simpler which fails, is kept only if none of
    the cases gives another. seed_value: of the cases. shrink: if not, as found is as small as it gets. observe: record
    what happens in each example, and which outputs were wrong, and judge nothing. watch: is told of each case, and may
    know already what comes of it. audit: listen to the first example for calls of the reference, which `copied` names
    then.
    """
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    tally = Tally()
    one = _Example(check, subject, tally, observe, watch, audit)

    def search(*, lenient: bool) -> None:
        @settings(
            max_examples=examples,
            backend=BACKEND,
            database=None,  # the same seed gives the same cases, whatever earlier runs found
            deadline=None,  # effort is counted in examples, never in seconds
            phases=phases,
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
            one(case, lenient=lenient)

        # Whatever Hypothesis makes of a failure (also of one that did not repeat), the tally has it.
        try:
            example()
        except Failed:
            pass
        except Flaky:
            tally.repeats = False

    search(lenient=True)
    if tally.first is None and tally.lesser is not None:
        search(lenient=False)  # the same cases, of which that one alone is run again, and made smaller
        if tally.first is None:
            tally.first, tally.last, tally.repeats = tally.lesser, tally.lesser, False
    return tally


@dataclass(frozen=True)
class _Example:
    """One example of a check: what it shows goes into the tally. The other fields are those parameters of `explore`."""

    check: Check
    subject: Subject
    tally: Tally
    observe: bool
    watch: Watch
    audit: bool

    def __call__(self, case: Case, *, lenient: bool) -> None:
        """Failed if the case fails: if lenient, in a way than which none would say more."""
        tally = self.tally
        if tally.first is not None and out_of_memory(tally.first[1].message) and case != tally.first[0]:
            return  # each attempt to make it smaller would fill the memory again
        if not lenient and tally.first is None and tally.lesser is not None and case != tally.lesser[0]:
            return  # it was run before
        if lenient and len(tally.resting) >= ENOUGH:
            return
        searching = tally.first is None and tally.lesser is None
        if searching:
            tally.examples += 1
            tally.dtypes[case.dtype] += 1
            tally.events.update(occurring(case))
        first = self.audit and searching and tally.examples == 1
        try:
            with auditing() if first else nullcontext(tally.copied) as heard:
                outcome, failed = attempt(self.check, self.subject, case, self.watch)
            tally.copied |= heard
        except NotAsked as reason:
            tally.unasked = str(reason)
            return
        if failed is None:
            if searching:
                tally.effective += outcome is not False
                if self.observe:
                    seen = outcome if isinstance(outcome, str) else AS_REQUIRED
                    tally.seen[_fault(case), seen] += 1
            return
        tally.failures += 1
        if self.observe:
            tally.seen[_fault(case), failed.message.partition(":")[0]] += 1
            if failed.evidence is not None:
                tally.wrong.append((case, failed))
            return
        known = tally.first or (None if lenient else tally.lesser)
        # What a failure rests on is asked once, and not of all that it is made smaller to.
        failed.rests = rests(self.check, self.subject, case, failed) if known is None else known[1].rests
        if lenient and lesser(failed):
            tally.resting += [failed.rests] if failed.rests else []
            if tally.lesser is None or (tally.lesser[1].rests and not failed.rests):
                tally.lesser = (case, failed)
            return
        tally.first = tally.first or (case, failed)
        tally.last = (case, failed)
        raise failed


def rests(check: Check, subject: Subject, case: Case, failed: Failed) -> tuple[str, ...]:
    """The requirements that judge what a failed case of a check rests on, if that fails, too."""
    if isinstance(failed, Deadly):
        return ()
    return resting(check.requirement, check.grounds(case), subject, failed)


def lesser(failed: Failed) -> bool:
    """Whether another failure would say more: a looser claim would allow this one, or something simpler fails, too."""
    return bool(failed.rests) or allowed_by(failed.message) is not None


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
