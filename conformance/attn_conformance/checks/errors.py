"""ERR: malformed calls raise, say why, and leave everything as it was."""

from __future__ import annotations

import re

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import expect
from attn_conformance.cases import KernelCase, build
from attn_conformance.faults import FAULTS
from attn_conformance.judge import Failed
from attn_conformance.registry import check
from attn_conformance.scope import Scope
from attn_conformance.strategies import faulty, kinds
from attn_conformance.subject import Subject


@check("ERR-1", cases=lambda scope: faulty(scope, "call-"), floor=1)
def malformed_calls_raise(subject: Subject, case: KernelCase) -> bool:
    """Wrong ranks, sizes, batches and lengths raise; no numbers come back."""
    expect.rejection(subject, build(case))
    return True


def _any_fault(scope: Scope) -> SearchStrategy[KernelCase]:
    masked = [faulty(scope, prefix) for prefix in ("mask-", "rank-")] if kinds(scope) else []
    return st.one_of(faulty(scope, "call-"), *masked)


def _names(text: str, argument: str) -> bool:
    return re.search(rf"\b{re.escape(argument)}\b", text) is not None


@check("ERR-2", cases=_any_fault, floor=1)
def exceptions_name_the_argument(subject: Subject, case: KernelCase) -> bool:
    """The exception is a ValueError that names the argument and its actual shape."""
    call = build(case)
    error = expect.rejected(subject, call)
    if not isinstance(error, ValueError):
        raise Failed(f"raised {type(error).__name__} where ValueError was expected: {error}")
    text = str(error)
    named = [
        name for name in FAULTS[case.fault].blamed if _names(text, subject.convention.names.get(name, name))
    ]
    if not named:
        raise Failed(f"the message names none of the arguments concerned: {text}")
    # An integer mask has the right shape: its dtype is what is wrong.
    arguments = subject.arguments(call)
    shown = set(re.findall(r"\d+", text))
    if case.fault != "mask-integer" and not any(
        {str(n) for n in arguments[name].shape} <= shown for name in named
    ):
        raise Failed(f"the message does not give the actual shape of {' or '.join(named)}: {text}")
    return True


@check("ERR-3", cases=_any_fault, floor=1)
def rejected_calls_leave_no_trace(subject: Subject, case: KernelCase) -> bool:
    """A rejected call leaves its inputs as they were."""
    call = build(case)
    natives = subject.natives(call)
    expect.rejected(subject, call, natives)
    expect.untouched(subject, call, natives)
    return True
