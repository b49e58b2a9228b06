"""KERN: what kernels may claim beyond the interface: grouped heads, an explicit scale, other value sizes, lse."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import expect, simplified
from attn_conformance.cases import KernelCase, build
from attn_conformance.checks.equality import even_weights
from attn_conformance.judge import Failed, ask_lse
from attn_conformance.registry import KERNEL, check
from attn_conformance.scope import Scope
from attn_conformance.strategies import CAUSAL, kernel_cases, kinds, masks
from attn_conformance.subject import Subject
from attn_reference import Problem


def _variants(scope: Scope) -> SearchStrategy[KernelCase]:
    """Plain, masked and causal cases."""
    options = [kernel_cases(scope)]
    if kinds(scope):
        options.append(kernel_cases(scope, mask=masks(dtypes=kinds(scope), planes="each")))
    if scope.has("causal"):
        options.append(kernel_cases(scope, square=True, causal=CAUSAL))
    return st.one_of(*options)


def _grouped(scope: Scope) -> SearchStrategy[KernelCase]:
    groups = st.sampled_from(((4, 2), (6, 2), (6, 3), (9, 3), (8, 4), (2, 1), (5, 1)))
    return st.tuples(_variants(scope), groups).map(lambda t: replace(t[0], heads=t[1][0], kv_heads=t[1][1]))


def _tiled(problem: Problem) -> Problem:
    """Query head h reads key head h modulo Hkv, where h // g is right."""
    heads = np.arange(problem.q.shape[1]) % problem.k.shape[1]
    return replace(problem, k=problem.k[:, heads], v=problem.v[:, heads])


@check("KERN-1", cases=_grouped, kinds=KERNEL, grounds=simplified.offered)
def consecutive_query_heads_share_a_key_head(subject: Subject, case: KernelCase) -> bool:
    """With H = g * Hkv heads, query heads g*n to g*n + g - 1 read key head n; g = H included."""
    return expect.reference(subject, build(case), without=even_weights if case.kv_heads == 1 else _tiled)


def _scaled(scope: Scope) -> SearchStrategy[KernelCase]:
    scales = st.one_of(st.sampled_from((1.0, 0.5, 0.1, 2.0)), st.floats(0.0625, 2))
    return st.tuples(_variants(scope), scales).map(lambda t: replace(t[0], scale=t[1]))


@check("KERN-2", cases=_scaled, kinds=KERNEL, grounds=simplified.offered)
def an_explicit_scale_replaces_the_default(subject: Subject, case: KernelCase) -> bool:
    """With `scale` given, scores are scale * q k^T."""
    call = build(case)
    return expect.reference(subject, call, without=replace(call, scale=None))


def _other_value_size(scope: Scope) -> SearchStrategy[KernelCase]:
    sizes = st.sampled_from((1, 2, 3, 5, 12, 24, 48, 80))
    return st.tuples(_variants(scope), sizes).map(lambda t: replace(t[0], value_size=t[1]))


@check("KERN-3", cases=_other_value_size, kinds=KERNEL, grounds=simplified.offered)
def values_may_have_another_head_size(subject: Subject, case: KernelCase) -> bool:
    """V may be (B, Hkv, S, Dv) with Dv != D; the output is (B, H, T, Dv)."""
    return expect.reference(subject, build(case), without=even_weights)


def _with_lse(scope: Scope) -> SearchStrategy[KernelCase]:
    if not kinds(scope):
        return _variants(scope)
    empty = masks(dtypes=kinds(scope), structures=("some-rows-empty",), planes="each", empty_rows=True)
    return st.one_of(_variants(scope), kernel_cases(scope, mask=empty))


@check("KERN-4", cases=_with_lse, kinds=KERNEL, grounds=simplified.offered)
def the_log_sum_exp_is_returned(subject: Subject, case: KernelCase) -> bool:
    """The second result is the natural log-sum-exp of each row's scores, -inf for rows without a key."""
    call = build(case)
    lse = subject.run(call).lse
    assert lse is not None  # the claim is checked by Subject.run
    expected = call.q.shape[:3]
    if lse.shape != expected:
        raise Failed(f"the log-sum-exp has shape {lse.shape}, expected (B, H, T) = {expected}")
    answer = ask_lse(subject.lower(call), case.dtype, subject.claims.arithmetic)
    expect.within(lse[..., None], answer, "the log-sum-exp differs from the reference")
    return True
