"""Explanations: what a failed row is given beside its smallest case, once the search is over."""

from __future__ import annotations

import zlib
from dataclasses import replace

from attn_conformance.cases import Case, case_from_json
from attn_conformance.causes import likely_cause
from attn_conformance.endings import by_user, described
from attn_conformance.expect import LOOSER, allowed_by
from attn_conformance.exploration import attempt, explore
from attn_conformance.judge import Failed, NotAsked
from attn_conformance.registry import Check, checks
from attn_conformance.reproducer import Execute, reproducer
from attn_conformance.results import Row
from attn_conformance.subject import Subject

WITNESSES = 20
"""Examples that are run to tell causes apart which the smallest case does not."""


def explained(row: Row, subject: Subject, execute: Execute | None, deadly: str | None = None) -> Row:
    """The row with a likely cause and a standalone script, as far as there is one and it can be proved.

    execute: runs scripts; None leaves them out. deadly: "crash" or "hang", where the failing case takes the process
    with it: it is not run again in this one.
    """
    assert row.counterexample is not None  # only such rows are explained
    check = next(check for check in checks()[row.requirement] if check.name == row.check)
    case = case_from_json(row.counterexample)
    failed: Failed | None = Failed(row.message or "")
    if deadly is None:
        try:
            _, failed = attempt(check, subject, case)
        except NotAsked:
            failed = None
        if failed is None:
            return replace(row, unproved="the same case did not fail again")
        row = replace(row, cause=_cause(check, case, failed, subject))
    if execute is None or failed is None:
        return row
    try:
        made = reproducer(check, subject.open(), case, failed, execute, deadly=deadly)
    except (
        BaseException
    ) as error:  # no verdict depends on it; the target may raise what would end this program
        if by_user(error):
            raise
        return replace(row, unproved=f"the suite failed to write it: {described(error)}")
    return replace(row, reproducer=made.script, unproved=made.reason)


def _cause(check: Check, case: Case, failed: Failed, subject: Subject) -> str | None:
    """What the wrong output of the smallest case equals, if other wrong outputs of its dtype equal that too.

    A small case has many causes: at T = 2 one key too many is all of them.
    """
    try:
        if not any(likely_cause((case, one)) for one in (failed, _loosened(failed))):
            return None
        # In another dtype other roundings may come on top of what is wrong.
        alike = subject.claiming(replace(subject.claims, dtypes=(case.dtype,)))
        number = zlib.crc32(f"0 {check.requirement}".encode())  # the cases of seed 0
        others = explore(check, alike, examples=WITNESSES, seed_value=number, observe=True).wrong
        cause = likely_cause((case, failed), *others)
        if cause is None and not allowed_by(failed.message):
            # Its roundings alone may be beyond the claims: what else is wrong shows within the bound of looser ones.
            graver = [(other_case, other) for other_case, other in others if not allowed_by(other.message)]
            looser = ((other_case, _loosened(other)) for other_case, other in graver)
            cause = likely_cause((case, _loosened(failed)), *looser)
    except Exception as error:  # no verdict depends on it
        return f"unknown: the suite failed to look for it: {type(error).__name__}: {error}"
    return None if cause is None else cause.sentence


def _loosened(failed: Failed) -> Failed:
    """The failure, held against what the loosest claim for its dtype would allow; as it is where that is unknown."""
    evidence = failed.evidence
    if evidence is None or evidence.answer.under is None:
        return failed
    answer = evidence.answer.claiming(LOOSER[evidence.answer.dtype][-1])
    return Failed(failed.message, failed.comparison, replace(evidence, answer=answer))
