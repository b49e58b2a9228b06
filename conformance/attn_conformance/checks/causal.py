"""CAUSAL: no query sees a later key, and the triangle is anchored at the bottom right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from attn_conformance import expect, simplified
from attn_conformance.cases import Call, KernelCase, build
from attn_conformance.judge import Evidence, Failed, ask, compare, moves
from attn_conformance.registry import FEW, MODULE, SOME, check
from attn_conformance.scope import Scope
from attn_conformance.strategies import (
    CAUSAL,
    LONG_AND_CHEAP,
    counted_keys,
    kernel_cases,
    kinds,
    masks,
    sizes,
    weighted,
)
from attn_conformance.subject import Raised, Subject
from attn_reference import lower


def uncaused(call: Call) -> Call:
    """The call without its causal flag."""
    return replace(call, is_causal=False)


@check(
    "CAUSAL-1",
    cases=lambda scope: kernel_cases(scope, square=True, causal=CAUSAL),
    grounds=simplified.uncaused,
)
def the_future_changes_nothing(subject: Subject, case: KernelCase) -> bool:
    """Changing all keys and values after a position changes no output up to it."""
    call = build(case)
    last = case.seed % (case.queries - 1)
    k, v = call.k.copy(), call.v.copy()
    k[:, :, last + 1 :] = -3 * k[:, :, last + 1 :]
    v[:, :, last + 1 :] = 50 - v[:, :, last + 1 :]
    past = np.arange(last + 1)
    other = replace(call, k=k, v=v)
    answer = ask(subject.lower(call).take_rows(past), case.dtype, subject.claims.arithmetic)
    before, after = (subject.attention(one)[:, :, past] for one in (call, other))
    posed = replace(answer, problem=subject.lower(other).take_rows(past))
    what = f"the keys after position {last} matter up to it"
    expect.same(before, after, answer, what, (Evidence(before, answer), Evidence(after, posed)))
    return moves(answer, subject.lower(uncaused(other)).take_rows(past))


@check(
    "CAUSAL-2",
    cases=lambda scope: kernel_cases(scope, square=True, causal=CAUSAL),
    grounds=simplified.uncaused,
)
def causal_equals_the_triangle(subject: Subject, case: KernelCase) -> bool:
    """With T = S, is_causal equals the lower-triangular boolean mask."""
    call = build(case)
    return expect.reference(subject, call, without=uncaused(call))


def _more_keys(scope: Scope) -> st.SearchStrategy[KernelCase]:
    usual = kernel_cases(scope, more_keys=True, causal=CAUSAL)
    long = counted_keys(scope, LONG_AND_CHEAP, more_keys=True, causal=CAUSAL)
    return weighted((12, usual), (1, long))


@check("CAUSAL-3", cases=_more_keys, windows=("kernel", "qkv", "cached"), grounds=simplified.square)
def the_triangle_is_anchored_bottom_right(subject: Subject, case: KernelCase) -> bool:
    """With T < S, key j is visible to query i iff j <= i + (S - T)."""
    call = build(case)
    return expect.reference(subject, call, without=uncaused(call))


def _masked_and_causal(scope: Scope) -> st.SearchStrategy[KernelCase]:
    mask = masks(
        dtypes=kinds(scope), structures=("all", "random", "triangle"), axes=st.sampled_from(("bhts", "ts"))
    )
    return kernel_cases(scope, queries=st.integers(1, 12), square=True, causal=CAUSAL, mask=mask)


@check("CAUSAL-4", cases=_masked_and_causal, floor=1, kinds=MODULE, windows=("self",), at_most=SOME)
@check("CAUSAL-5", cases=_masked_and_causal, floor=1, windows=("kernel", "qkv"), at_most=SOME)
def mask_and_causal_raise(subject: Subject, case: KernelCase) -> bool:
    """A mask together with is_causal raises ValueError, for every kind of mask."""
    error = expect.rejection(subject, build(case))
    if not isinstance(error, ValueError):
        raise Failed(f"raised {type(error).__name__} where ValueError was expected: {error}")
    return True


@check(
    "CAUSAL-7",
    cases=lambda scope: kernel_cases(scope, queries=st.integers(3, 12), keys=sizes.one(2), causal=CAUSAL),
    windows=("kernel", "qkv"),
    at_most=FEW,
)
def causal_with_more_queries_than_keys(subject: Subject, case: KernelCase) -> str:
    """What is_causal does when T > S."""
    call = build(case)
    try:
        out = subject.attention(call)
    except Raised as raised:
        return f"T > S raises {type(raised.error).__name__}"
    except Failed as failed:
        return f"T > S: {failed.message}"
    readings = {
        "bottom-right, the first T - S rows are zero": call,
        "top-left": replace(uncaused(call), mask=np.tri(case.queries, case.keys, dtype=bool)),
        "not causal": uncaused(call),
    }
    for name, reading in readings.items():
        problem = lower(reading.q, reading.k, reading.v, reading.mask, reading.is_causal)
        if compare(out, ask(problem, case.dtype, subject.claims.arithmetic)).ok:
            return f"T > S: {name}"
    return "T > S: NaN" if np.isnan(out.astype(np.float64)).any() else "T > S: none of the known readings"
