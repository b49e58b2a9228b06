"""NUM: errors within the certified bound, also where arithmetic is hard; NaN is never hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import expect
from attn_conformance.cases import KernelCase, build
from attn_conformance.cases.values import FAMILIES
from attn_conformance.checks.equality import even_weights
from attn_conformance.judge import Evidence, Failed
from attn_conformance.registry import check
from attn_conformance.scope import Scope
from attn_conformance.strategies import kernel_cases, kinds, masks, sizes
from attn_conformance.subject import Subject
from attn_reference import solve

LONG = (1024, 2047, 4096, 8192, 16385, 32768)
"""Lengths at which kernels split the keys and low-precision accumulators lose digits."""

RARE = ("huge", "negative", "deep", "uneven-batch", "uneven-heads")
"""Families that belong to NUM-2, NUM-3, MASK-6, PURE-3 and PURE-4."""

HARD = ("growing", "falling", "cancelling", "even", "heavy-values", "shifted", "heavy", "large", "probe")
"""Families that find accumulators and lost keys at great length."""


def _everything(scope: Scope) -> SearchStrategy[KernelCase]:
    usual = tuple(family for family in FAMILIES if family not in RARE)
    common = kernel_cases(scope, families=usual, head_size=st.one_of(sizes.head_sizes, sizes.odd_head_sizes))
    # Enough queries and keys that single roundings add up.
    few = st.integers(1, 2)
    wide = kernel_cases(
        scope, batch=few, heads=few, queries=st.integers(8, 32), keys=st.integers(100, 400), families=usual
    )
    if not scope.has("cross"):
        return st.one_of(common, wide)
    # Projections that select would take longer than the attention itself at such lengths.
    direct = replace(scope, windows=scope.windows[:1] if scope.windows[:1] != ("self",) else scope.windows)
    long = kernel_cases(
        direct,
        batch=sizes.one(1),
        heads=sizes.one(1),
        queries=st.integers(2, 8),
        keys=st.sampled_from(LONG),
        head_size=st.sampled_from((16, 64)),
        families=HARD,
    )
    # Even weights over many keys: a count or sum in float16 sticks at 2048.
    even = kernel_cases(
        direct,
        batch=sizes.one(1),
        heads=sizes.one(2),
        queries=st.integers(2, 4),
        keys=st.sampled_from((2048, 2049, 3000, 4097)),
        families=("even",),
    )
    return st.one_of(*[common] * 5, *[wide] * 4, long, *[even] * 2)


@check("NUM-1", cases=_everything)
def errors_stay_within_the_bound(subject: Subject, case: KernelCase) -> bool:
    """Every element is within the certified bound of its dtype, at any length up to 32768 keys."""
    return expect.reference(subject, build(case), without=even_weights)


@check("NUM-2", cases=lambda scope: kernel_cases(scope, families=("huge",)))
def large_logits_do_not_overflow(subject: Subject, case: KernelCase) -> bool:
    """Large logits give no overflow and no NaN."""
    call = build(case)
    expect.reference(subject, call)
    problem = subject.lower(call)
    # exp overflows above 88 in float32 (709 in float64), and raw float16 products above 65504.
    top = float(np.max(solve(problem).s, initial=0.0))
    return top > (709 if case.dtype == "float64" else 88) or top > 65504 * problem.scale


def _extreme(scope: Scope) -> SearchStrategy[KernelCase]:
    families = ("negative", "growing", "falling", "dominant", "heavy", "even", "deep", "tied")
    plain = kernel_cases(scope, families=families)
    dtypes = tuple(kind for kind in kinds(scope) if kind != "bool")
    if not dtypes:
        return plain
    low = masks(dtypes=dtypes, structures=("all", "padding-right"), biases=("below-10000",))
    return st.one_of(plain, plain, kernel_cases(scope, mask=low, families=("normal", "large", "probe")))


@check("NUM-3", cases=_extreme)
def extreme_rows_stay_within_the_bound(subject: Subject, case: KernelCase) -> bool:
    """Rows that are strongly negative, rising, falling, all equal, dominated or long-tailed, within the bound."""
    call = build(case)
    if case.values in ("even", "tied"):
        return expect.reference(subject, call)
    return expect.reference(subject, call, without=even_weights)


NAN_PLACES = st.sampled_from(("nan-q", "nan-k", "nan-v"))


@check("NUM-4", cases=lambda scope: kernel_cases(scope, fault=NAN_PLACES), floor=1)
def nan_reaches_what_depends_on_it(subject: Subject, case: KernelCase) -> bool:
    """NaN in a visible input reaches every output that depends on it, and no other batch element."""
    clean = build(case)
    rng = np.random.default_rng((case.seed, 4))
    place = case.fault.removeprefix("nan-")
    array = clean.arrays()[place].copy()
    at = tuple(int(rng.integers(n)) for n in array.shape)
    array[at] = np.nan
    call = clean.with_array(place, array)
    with np.errstate(invalid="ignore"):
        due = np.isnan(solve(subject.lower(call)).o)
    got = subject.attention(call)
    silent = due & ~np.isnan(got.astype(np.float64))
    if silent.any():
        b, h, i, c = np.argwhere(silent)[0]
        value = float(got[b, h, i, c])
        raise Failed(
            f"NaN at {place}[{', '.join(map(str, at))}] is hidden in {int(silent.sum())} of {int(due.sum())} "
            f"elements that depend on it; first [{b}, {h}, {i}, {c}] is {value:.6g}",
            evidence=Evidence(got, subject.answer(call)),
        )
    others = [b for b in range(case.batch) if b != at[0]]
    answer = subject.answer(clean).part(np.array(others, int), 0)
    before = subject.attention(clean)[others]
    expect.same(before, got[others], answer, f"NaN in batch element {at[0]} changed another batch element")
    return True
