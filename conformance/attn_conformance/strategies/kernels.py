"""Cases of the kind `kernel`: one composite, in which each check opens just what its requirement needs."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from attn_conformance.cases import KernelCase, Mask
from attn_conformance.strategies import sizes
from attn_conformance.subject import Scope

ORDINARY = ("normal", "probe", "large", "integers", "shifted")
"""Families in which any difference of more than rounding shows, and none is numerically hard."""

NO_MASK: SearchStrategy[Mask | None] = st.none()
NOT_CAUSAL = st.just(False)
CAUSAL = st.just(True)


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
    """A case with T and S independent, unless square (T = S) or more_keys (S > T)."""
    claims = scope.claims
    q_length = draw(queries, label="queries")
    k_length = q_length if square or not scope.has("cross") else draw(keys, label="keys")
    if more_keys:
        k_length += q_length - 1
    n_heads = draw(heads, label="heads")
    size = draw(st.sampled_from(claims.head_sizes) if claims.head_sizes else head_size, label="head_size")
    return KernelCase(
        batch=draw(batch, label="batch"),
        heads=n_heads,
        kv_heads=n_heads,
        queries=q_length,
        keys=k_length,
        head_size=size,
        value_size=size,
        dtype=draw(st.sampled_from(_simplest_first(claims.dtypes)), label="dtype"),
        values=draw(st.sampled_from(families), label="values"),
        mask=draw(mask, label="mask"),
        causal=draw(causal, label="causal"),
        scale=draw(scale, label="scale"),
        poison=draw(poison, label="poison"),
        layout=draw(layout, label="layout"),
        laid_out=draw(laid_out, label="laid_out"),
        grad=draw(grad, label="grad"),
        fault=draw(fault, label="fault"),
        seed=draw(sizes.seeds, label="seed"),
    )


def _simplest_first(dtypes: tuple[str, ...]) -> tuple[str, ...]:
    order = ("float32", "float64", "bfloat16", "float16")
    return tuple(name for name in order if name in dtypes)
