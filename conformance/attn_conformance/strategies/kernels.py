"""Attention problems: one composite, in which each check opens just what its requirement needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from attn_conformance.cases import KernelCase, Mask
from attn_conformance.scope import Scope
from attn_conformance.strategies import sizes

ORDINARY = ("normal", "probe", "large", "integers", "shifted")
"""Families in which any difference of more than rounding shows, and none is numerically hard."""

NO_MASK: SearchStrategy[Mask | None] = st.none()
NOT_CAUSAL = st.just(False)
CAUSAL = st.just(True)

CARRIED = ("self", "cross", "cached")
"""Windows through which forward is called, with weights that carry q, k and v."""

WIDEST = 144
"""Largest n_state of such weights: beyond it a call spends its time on projections that select."""


LONG_AND_CHEAP = (1025, 4097, 8193, 8193)
"""Numbers of keys beyond tiles and splits, with 8 queries more than 2^16 elements of a mask: a tenth of a second."""


def _fitting(windows: tuple[str, ...], causal: bool, square: bool, more_keys: bool) -> tuple[str, ...]:
    """The windows that a causal, square or longer problem fits: causal cross-attention is left open by CAUSAL-7."""
    if more_keys:
        windows = tuple(window for window in windows if window != "self")
    if square:
        windows = tuple(window for window in windows if window != "cached")
    if causal:
        windows = tuple(window for window in windows if window != "cross")
    return windows


@st.composite
def kernel_cases(
    draw: DrawFn,
    scope: Scope,
    *,
    batch: SearchStrategy[int] = sizes.counts,
    heads: SearchStrategy[int] = sizes.counts,
    queries: SearchStrategy[int] = sizes.lengths,
    keys: SearchStrategy[int] = sizes.lengths,
    square: bool = False,
    more_keys: bool = False,
    head_size: SearchStrategy[int] = sizes.head_sizes,
    families: tuple[str, ...] = ORDINARY,
    mask: SearchStrategy[Mask | None] = NO_MASK,
    causal: SearchStrategy[bool] = NOT_CAUSAL,
    scale: SearchStrategy[float | None] = st.none(),
    poison: SearchStrategy[str] = st.just("none"),
    layout: SearchStrategy[str] = st.just("contiguous"),
    laid_out: SearchStrategy[str] = st.just("qkv"),
    grad: SearchStrategy[str] = st.just("off"),
    fault: SearchStrategy[str] = st.just("none"),
) -> KernelCase:
    """A case with T and S independent, unless square (T = S), more_keys (S > T) or the window says so."""
    claims = scope.claims
    is_causal = draw(causal, label="causal")
    window = draw(st.sampled_from(_fitting(scope.windows, is_causal, square, more_keys)), label="window")
    q_length = draw(queries, label="queries")
    same = square or window == "self" or not scope.has("cross")
    k_length = q_length if same and window != "cached" else draw(keys, label="keys")
    if more_keys or window == "cached":
        k_length += q_length - 1
    n_heads = draw(heads, label="heads")
    size = draw(st.sampled_from(claims.head_sizes) if claims.head_sizes else head_size, label="head_size")
    if window in CARRIED:
        if claims.head_sizes:
            size = max(size // 3, 1)  # the module's own head size carries three arrays
        if n_heads * size * 3 > WIDEST:
            n_heads, size = min(n_heads, 3), min(size, WIDEST // 9)
    return KernelCase(
        batch=draw(batch, label="batch"),
        heads=n_heads,
        kv_heads=n_heads,
        queries=q_length,
        keys=k_length,
        head_size=size,
        value_size=size,
        dtype=draw(st.sampled_from(simplest_first(claims.dtypes)), label="dtype"),
        values=draw(st.sampled_from(families), label="values"),
        mask=draw(mask, label="mask"),
        causal=is_causal,
        scale=draw(scale, label="scale"),
        poison=draw(poison, label="poison"),
        layout=draw(layout, label="layout"),
        laid_out=draw(laid_out, label="laid_out"),
        grad=draw(grad, label="grad"),
        window=window,
        fault=draw(fault, label="fault"),
        seed=draw(sizes.seeds, label="seed"),
    )


def direct(scope: Scope) -> Scope:
    """The scope with the shortest way to the attention: projections that select would take longer at great lengths."""
    return replace(scope, windows=scope.windows[:1] if scope.windows[:1] != ("self",) else scope.windows)


def only(scope: Scope, *dtypes: str) -> Scope:
    """The scope without other dtypes; as it is if it has none of these."""
    kept = tuple(dtype for dtype in scope.claims.dtypes if dtype in dtypes) or scope.claims.dtypes
    return replace(scope, claims=replace(scope.claims, dtypes=kept))


def counted_keys(
    scope: Scope, lengths: tuple[int, ...], *, queries: int = 8, **given: Any
) -> SearchStrategy[KernelCase]:
    """Cases in which every single key shows; one head of 64 channels, of which each counts up to S / T / 64 keys.

    Without float64 where something else is claimed: the oracle takes seconds, and which keys count is the same.
    """
    return kernel_cases(
        direct(only(scope, "float32", "float16", "bfloat16")),
        batch=sizes.one(1),
        heads=sizes.one(1),
        queries=sizes.one(queries),
        keys=st.sampled_from(lengths),
        head_size=sizes.one(64),
        families=("counted",),
        **given,
    )


def simplest_first(dtypes: tuple[str, ...]) -> tuple[str, ...]:
    """The dtypes in the order in which failures shrink."""
    order = ("float32", "float64", "bfloat16", "float16")
    return tuple(name for name in order if name in dtypes)
