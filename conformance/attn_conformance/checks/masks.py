"""MASK: who may attend, and what is added to the scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from attn_conformance import expect, simplified
from attn_conformance.cases import Call, KernelCase, build
from attn_conformance.judge import Failed
from attn_conformance.registry import FEW, OPEN, SOME, check
from attn_conformance.scope import Scope
from attn_conformance.strategies import (
    APART,
    BROADCASTS,
    KEYWISE,
    LONG_AND_CHEAP,
    PARTIAL,
    counted_keys,
    faulty,
    floating_kinds,
    kernel_cases,
    kinds,
    masks,
    sizes,
    weighted,
)
from attn_conformance.subject import Raised, Subject


def unmasked(call: Call) -> Call:
    """The call without its mask."""
    return replace(call, mask=None)


def _hiding(scope: Scope) -> SearchStrategy[KernelCase]:
    usual = kernel_cases(scope, mask=masks(dtypes=("bool",)))
    if not scope.has("cross"):
        return usual
    long = masks(dtypes=("bool",), structures=("random", "padding-right", "padding-left"))
    return weighted((8, usual), (1, counted_keys(scope, LONG_AND_CHEAP, mask=long)))


@check("MASK-1", cases=_hiding, grounds=simplified.allowed)
def true_may_attend(subject: Subject, case: KernelCase) -> bool:
    """In a boolean mask True means that the query may attend to the key."""
    call = build(case)
    return expect.reference(subject, call, without=unmasked(call))


FINITE = ("noise", "alibi", "fine")


def _biased(scope: Scope) -> SearchStrategy[KernelCase]:
    dtypes = floating_kinds(scope)
    added = masks(dtypes=dtypes, structures=("all", "random", "padding-right"), biases=FINITE)
    filled = masks(dtypes=dtypes, structures=("all",), biases=("filled",))
    return weighted((3, kernel_cases(scope, mask=added)), (1, kernel_cases(scope, mask=filled)))


@check("MASK-2", cases=_biased, grounds=simplified.hiding)
def floating_masks_are_added(subject: Subject, case: KernelCase) -> bool:
    """A floating mask is added to the scaled scores, exactly."""
    call = build(case)
    return expect.reference(subject, call, without=unmasked(call))


@check(
    "MASK-3",
    cases=lambda scope: kernel_cases(
        scope, mask=masks(dtypes=kinds(scope), structures=APART, biases=("noise", "alibi"), planes="each")
    ),
    grounds=simplified.one_plane,
)
def every_plane_is_its_own(subject: Subject, case: KernelCase) -> bool:
    """In a mask (B, H, T, S) each batch element and head has its own plane."""
    call = build(case)
    assert call.mask is not None
    # Misread: one head's planes for all heads, or one batch element's for all.
    axis = case.seed % 2
    first = np.broadcast_to(call.mask.take([0], axis=axis), call.mask.shape)
    return expect.reference(subject, call, without=replace(call, mask=first))


def _broadcast(scope: Scope) -> SearchStrategy[KernelCase]:
    structures = (*PARTIAL, "first-all-allowed", "first-shortest")
    mask = masks(dtypes=kinds(scope), structures=structures, biases=("none", "noise"),
                 axes=st.sampled_from(BROADCASTS), planes="each")  # fmt: skip
    same_count = kernel_cases(scope, mask=mask).map(
        lambda case: replace(case, heads=case.batch, kv_heads=case.batch)
    )
    tall = kernel_cases(scope, queries=st.integers(65, 100), mask=mask)
    return st.one_of(
        kernel_cases(scope, mask=mask), kernel_cases(scope, square=True, mask=mask), same_count, tall
    )  # fmt: skip


@check("MASK-4", cases=_broadcast, grounds=simplified.written_out)
def masks_broadcast(subject: Subject, case: KernelCase) -> bool:
    """A mask (T, S), or 4-D with axes full or 1, acts as its expansion to (B, H, T, S) does."""
    call = build(case)
    return expect.reference(subject, call, without=unmasked(call))


def _with_empty_rows(scope: Scope) -> SearchStrategy[KernelCase]:
    mask = masks(dtypes=kinds(scope), structures=("some-rows-empty", "none", "random", "single-key", "band"),
                 planes="each", empty_rows=True)  # fmt: skip
    return kernel_cases(scope, mask=mask)


def _rows_filled(call: Call) -> Call:
    mask = call.mask
    assert mask is not None
    forbidden = ~mask if mask.dtype == np.bool_ else np.isneginf(mask.astype(np.float64))
    opened = np.where(forbidden.all(-1, keepdims=True), np.ones((), mask.dtype), mask)
    return replace(call, mask=opened)


@check("MASK-5", cases=_with_empty_rows, grounds=simplified.written_out)
def empty_rows_give_zero(subject: Subject, case: KernelCase) -> bool:
    """A query that may attend to no key gives zeros, and no other row is touched."""
    call = build(case)
    return expect.reference(subject, call, without=_rows_filled(call))


def _poisoned(scope: Scope) -> SearchStrategy[KernelCase]:
    poisons = st.sampled_from(("both", "values", "keys"))
    keywise = masks(dtypes=kinds(scope), structures=KEYWISE)
    anywhere = masks(dtypes=kinds(scope), structures=("random", "single-key", "band"))
    either = st.one_of(keywise, anywhere)
    return weighted(
        (2, kernel_cases(scope, mask=keywise, poison=poisons)),
        # Forbidden logits near the visible ones while all of them lie below any finite fill.
        (1, kernel_cases(scope, mask=either, families=("deep",))),
        # Forbidden logits more than 100 above the visible ones.
        (1, kernel_cases(scope, mask=either, families=("growing", "falling", "large"))),
    )


@check("MASK-6", cases=_poisoned, grounds=simplified.visible_numbers)
def forbidden_keys_have_no_influence(subject: Subject, case: KernelCase) -> bool:
    """Whatever finite numbers stand in forbidden keys and values, the output stays the same."""
    call = build(case)
    return expect.reference(subject, call, without=unmasked(call))


def _neutral(scope: Scope) -> SearchStrategy[KernelCase]:
    mask = masks(dtypes=kinds(scope), structures=("all",), biases=("none", "row-constant", "row-constant"),
                 axes=st.sampled_from(("bhts", "ts", "11ts", "b1ts")))  # fmt: skip
    return kernel_cases(scope, mask=mask)


@check("MASK-7", cases=_neutral, grounds=simplified.neutral)
def neutral_masks_change_nothing(subject: Subject, case: KernelCase) -> bool:
    """All True, all zero, or one constant for each row: the output is that of the call without the mask."""
    call = build(case)
    answer = subject.answer(call)
    masked, plain = subject.attention(call), subject.attention(unmasked(call))
    expect.same(plain, masked, answer, "differs from the call without the mask")
    # Misread as "forbidden" or multiplied in, a neutral mask would empty every row or even the weights out.
    return bool(np.any(np.abs(answer.value) > answer.limit))


def _easily_ignored(scope: Scope) -> SearchStrategy[KernelCase]:
    dtypes = kinds(scope)
    one_query = kernel_cases(scope, queries=sizes.one(1), mask=masks(dtypes=dtypes))
    first_open = kernel_cases(
        scope, mask=masks(dtypes=dtypes, structures=("first-all-allowed",), planes="each")
    )
    modes = tuple(mode for mode in scope.grad_modes if mode != "off")
    if not modes:
        return st.one_of(one_query, first_open)
    return st.one_of(
        one_query, first_open, kernel_cases(scope, mask=masks(dtypes=dtypes), grad=st.sampled_from(modes))
    )


@check("MASK-8", cases=_easily_ignored, windows=(*OPEN, "cached"), grounds=simplified.squarely_masked)
def masks_are_never_ignored(subject: Subject, case: KernelCase) -> bool:
    """The mask counts at T = 1, when batch element 0 allows everything, and in every grad mode."""
    call = build(case)
    return expect.reference(subject, call, without=unmasked(call))


@check("MASK-9", cases=lambda scope: faulty(scope, "mask-"), floor=1)
def wrong_masks_raise(subject: Subject, case: KernelCase) -> bool:
    """Integer masks and masks of a wrong size raise; nothing is cut, padded or reinterpreted."""
    expect.rejection(subject, build(case))
    return True


@check("MASK-10", cases=lambda scope: faulty(scope, "rank-"), floor=1, at_most=SOME)
def masks_of_odd_rank_raise(subject: Subject, case: KernelCase) -> bool:
    """Masks of rank 1 and 3 raise."""
    expect.rejection(subject, build(case))
    return True


@check(
    "MASK-11",
    cases=lambda scope: kernel_cases(scope, mask=masks(dtypes=kinds(scope), structures=KEYWISE)),
    at_most=FEW,
)
def nan_in_forbidden_keys(subject: Subject, case: KernelCase) -> str:
    """Whether NaN or infinity in forbidden keys or values leaks into the output."""
    call = build(case)
    assert call.mask is not None
    full = np.broadcast_to(call.mask, (case.batch, case.heads, case.queries, case.keys))
    hidden = (~full if full.dtype == np.bool_ else np.isneginf(full.astype(np.float64))).all(2)
    bad: Any = (np.nan, np.inf)[case.seed % 2]
    where = ("keys", "values")[case.seed // 2 % 2]
    k, v = call.k.copy(), call.v.copy()
    (k if where == "keys" else v)[hidden] = bad
    try:
        out = subject.attention(replace(call, k=k, v=v))
    except Raised as raised:
        return f"{bad} in forbidden {where} raises {type(raised.error).__name__}"
    except Failed as failed:
        return failed.message
    leaks = "leaks" if np.isnan(out.astype(np.float64)).any() else "does not leak"
    return f"{bad} in forbidden {where} {leaks}" if hidden.any() else "no key was hidden from every query"
