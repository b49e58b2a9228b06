"""NUM: errors within the certified bound, also where arithmetic is hard; NaN is never hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import expect, simplified
from attn_conformance.bias import Fit, fits, gradient_fits, most_biased
from attn_conformance.cases import KernelCase, build, build_upstream
from attn_conformance.cases.values import FAMILIES
from attn_conformance.checks.equality import even_weights
from attn_conformance.gradients import compared
from attn_conformance.judge import Evidence, Failed, NotAsked, compare
from attn_conformance.registry import check
from attn_conformance.scope import Scope
from attn_conformance.strategies import (
    CAUSAL,
    counted_keys,
    direct,
    kernel_cases,
    kinds,
    masks,
    only,
    sizes,
    weighted,
    with_dout,
)
from attn_conformance.subject import Subject
from attn_reference import solve

LONG = (1024, 2047, 4096, 8192, 16385, 32768)
"""Lengths at which kernels split the keys and low-precision accumulators lose digits."""

COUNTED = (1025, 4096, 16385, 32768, 32768, 32768)
"""Lengths at which each key is counted; one that is lost from some length on is nearly always lost at the last."""

RARE = ("huge", "lifted", "negative", "deep", "repeated", "uneven-batch", "uneven-heads")
"""Families that belong to NUM-2, NUM-3, NUM-6, MASK-6, PURE-3 and PURE-4, or to what they rest on."""

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
    long = kernel_cases(
        direct(scope),
        batch=sizes.one(1),
        heads=sizes.one(1),
        queries=st.integers(2, 8),
        keys=st.sampled_from(LONG),
        head_size=st.sampled_from((16, 64)),
        families=HARD,
    )
    # Even weights over many keys: a count or sum in float16 sticks at 2048.
    even = kernel_cases(
        direct(scope),
        batch=sizes.one(1),
        heads=sizes.one(2),
        queries=st.integers(2, 4),
        keys=st.sampled_from((2048, 2049, 3000, 4097)),
        families=("even",),
    )
    counted = counted_keys(scope, COUNTED, queries=16)  # 32 keys for each element at most
    return weighted((7, common), (6, wide), (3, long), (3, even), (2, counted))


@check("NUM-1", cases=_everything, grounds=simplified.hard)
def errors_stay_within_the_bound(subject: Subject, case: KernelCase) -> bool:
    """Every element is within the certified bound of its dtype, at any length up to 32768 keys."""
    return expect.reference(subject, build(case), without=even_weights)


@check(
    "NUM-2",
    cases=lambda scope: kernel_cases(
        scope, queries=sizes.below_tiles, keys=sizes.below_tiles, families=("huge",)
    ),
    grounds=simplified.huge,
)
def large_logits_do_not_overflow(subject: Subject, case: KernelCase) -> bool:
    """Large logits give no overflow and no NaN."""
    call = build(case)
    expect.reference(subject, call)
    problem = subject.lower(call)
    # exp overflows above 88 in float32 (709 in float64), and raw float16 products above 65504.
    top = float(np.max(solve(problem).s, initial=0.0))
    return top > (709 if case.dtype == "float64" else 88) or top > 65504 * problem.scale


def _extreme(scope: Scope) -> SearchStrategy[KernelCase]:
    families = ("negative", "growing", "falling", "dominant", "heavy", "even", "deep", "deep", "tied",
                "uneven-heads")  # fmt: skip
    plain = kernel_cases(scope, families=families)
    dtypes = tuple(kind for kind in kinds(scope) if kind != "bool")
    if not dtypes:
        return plain
    low = masks(dtypes=dtypes, structures=("all", "padding-right"), biases=("below-10000",))
    return weighted((2, plain), (1, kernel_cases(scope, mask=low, families=("normal", "large", "probe"))))


@check("NUM-3", cases=_extreme, grounds=simplified.low)
def extreme_rows_stay_within_the_bound(subject: Subject, case: KernelCase) -> bool:
    """Rows that are strongly negative, rising, falling, all equal, dominated or long-tailed, within the bound."""
    call = build(case)
    if case.values in ("even", "tied"):
        return expect.reference(subject, call)
    return expect.reference(subject, call, without=even_weights)


NAN_PLACES = st.sampled_from(("nan-q", "nan-k", "nan-v"))


@check(
    "NUM-4",
    cases=lambda scope: kernel_cases(scope, fault=NAN_PLACES),
    floor=1,
    grounds=simplified.with_nan,
)
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


PROBLEMS = (32, 2)
"""B and H of a session: 64 problems that share nothing. From 25 on the spread between them is known well enough."""

SESSIONS = 24
"""Sessions at the default effort, six for each dtype: nearly any of them finds what it can find at all."""

STRAYS = 0.01
"""Share of elements out of bound beyond which a kernel is not biased but wrong."""

UNTIED = ("normal", "large", "shifted")
"""Families in which no two weights need be equal. Equal ones round alike, and then right kernels err to one side, too:
see NUM-6."""

LOW = ("float16", "bfloat16")


def _session(scope: Scope, *families: str, **given: Any) -> SearchStrategy[KernelCase]:
    batch, heads = (sizes.one(n) for n in PROBLEMS)
    return kernel_cases(scope, batch=batch, heads=heads, queries=st.integers(16, 32), keys=st.integers(16, 48),
                        head_size=st.integers(6, 16), families=families, **given)  # fmt: skip


def _sessions(scope: Scope) -> SearchStrategy[KernelCase]:
    choices = [_session(scope, *UNTIED)]
    if dtypes := kinds(scope):
        hiding = masks(dtypes=dtypes, structures=("random", "padding-right"), planes="each")
        choices.append(_session(scope, *UNTIED, mask=hiding))
    if scope.has("causal"):
        choices.append(_session(scope, *UNTIED, causal=CAUSAL))
    return st.one_of(*choices)


@check("NUM-5", cases=_sessions, at_most=SESSIONS, grounds=simplified.plain)
def errors_have_no_direction(subject: Subject, case: KernelCase) -> bool:
    """Over 64 problems the errors fit no gain, no other scale, no leak of hidden keys and no one-sided rounding."""
    found = _fits(subject, case)
    _look_at(found, "")
    return bool(found)


@check(
    "NUM-5",
    cases=lambda scope: with_dout(_sessions(only(scope, *LOW))),
    windows=("kernel", "qkv"),
    needs=("gradients",),
    at_most=SESSIONS // 4,
)
def errors_of_gradients_have_no_direction(subject: Subject, case: KernelCase) -> bool:
    """Over 64 problems the errors of dq, dk and dv fit no gain, no other D and no one-sided rounding."""
    found = _gradient_fits(subject, case)
    for of, fitted in found.items():
        _look_at(fitted, f"in the gradient of {of}, ")
    return all(found.values())


def _look_at(found: tuple[Fit, ...], where: str) -> None:
    """Failed if a coefficient is more than chance and the allowed; the one that explains the most is told."""
    if (best := most_biased(found)) is not None:
        raise Failed(
            f"the errors of {PROBLEMS[0] * PROBLEMS[1]} problems have a direction: {where}{best.sentence}\n"
            f"chance and allowed errors account for {best.limit / abs(best.value):.0%} of that"
        )


@check("NUM-6", cases=lambda scope: _session(only(scope, *LOW), "repeated"), at_most=SESSIONS // 2)
def where_maxima_repeat(subject: Subject, case: KernelCase) -> str:
    """Where the maximum of a row repeats and values have one sign, which way the errors of the result lean."""
    return _leaning({"the result": _fits(subject, case)}, case.dtype)


@check(
    "NUM-6",
    cases=lambda scope: with_dout(_session(only(scope, *LOW), "repeated"), families=("normal", "ones")),
    windows=("kernel", "qkv"),
    needs=("gradients",),
    at_most=SESSIONS // 2,
)
def gradients_where_maxima_repeat(subject: Subject, case: KernelCase) -> str:
    """Where the maximum of a row repeats and values have one sign, which way the errors of dq, dk and dv lean."""
    return _leaning({f"d{of}": fitted for of, fitted in _gradient_fits(subject, case).items()}, case.dtype)


def _leaning(found: dict[str, tuple[Fit, ...]], dtype: str) -> str:
    """What leans in a session, in words that are alike for sessions that are alike."""
    leaning = {of: best.short for of, fitted in found.items() if (best := most_biased(fitted)) is not None}
    told = ", ".join(f"{of} {short}" for of, short in leaning.items())
    return f"{dtype}: {told or 'no direction'}"


def _fits(subject: Subject, case: KernelCase) -> tuple[Fit, ...]:
    """The fits of a session's output; NotAsked if it is wrong in too many elements."""
    call = build(case)
    answer = subject.answer(call)
    got = subject.attention(call)
    comparison = compare(got, answer)
    if comparison.wrong > STRAYS * comparison.size:
        raise NotAsked("elements are out of bound, which other requirements judge")
    return fits(got, answer)


def _gradient_fits(subject: Subject, case: KernelCase) -> dict[str, tuple[Fit, ...]]:
    """The fits of a session's gradients of q, k and v; NotAsked if one is wrong in too many elements."""
    call, dout = build(case), build_upstream(case)
    asked = subject.answer_gradients(call, dout, "qkv")
    pulled = subject.gradients(subject.differentiated(call, "qkv"), dout).gradients
    got = {name: array for name, array in pulled.items() if array is not None}
    if len(got) < len(asked) or any(
        compared(got[of], gradient).wrong > STRAYS * got[of].size for of, gradient in asked.items()
    ):
        raise NotAsked("gradients are out of bound, which other requirements judge")
    return gradient_fits(got, asked)
