"""Cases of modules: forward calls with random weights, constructor arguments, and faulty problems."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from attn_conformance.cases import ForwardCase, KernelCase, Mask, SizesCase
from attn_conformance.faults import named
from attn_conformance.scope import Scope
from attn_conformance.strategies import sizes
from attn_conformance.strategies.kernels import kernel_cases, simplest_first
from attn_conformance.strategies.weights import weighted

HEADS_AND_SIZES = st.sampled_from(
    ((2, 4), (1, 8), (2, 8), (3, 5), (4, 4), (1, 1), (5, 1), (2, 16), (6, 6), (4, 16), (7, 3), (8, 8), (9, 2))
)
"""H and D of modules: one head, heads of one feature, odd sizes, n_state from 1 to 64."""


@st.composite
def forward_cases(
    draw: DrawFn,
    scope: Scope,
    *,
    cross: SearchStrategy[bool] = st.just(False),
    batch: SearchStrategy[int] = sizes.counts,
    queries: SearchStrategy[int] = sizes.short_lengths,
    keys: SearchStrategy[int] = sizes.short_lengths,
    mask: SearchStrategy[Mask | None] = st.none(),
    causal: SearchStrategy[bool] = st.just(False),
    weights_dtype: SearchStrategy[str | None] = st.none(),
    zeros: SearchStrategy[bool] = st.just(False),
    change: SearchStrategy[str] = st.just("none"),
) -> ForwardCase:
    """A forward call with random weights; causal only for self-attention."""
    claims = scope.claims
    across = scope.has("cross") and draw(cross, label="cross")
    heads, size = draw(HEADS_AND_SIZES, label="heads and head size")
    if claims.head_sizes:
        heads, size = min(heads, 3), draw(st.sampled_from(claims.head_sizes), label="head_size")
    is_causal = not across and scope.has("causal") and draw(causal, label="causal")
    return ForwardCase(
        batch=draw(batch, label="batch"),
        heads=heads,
        head_size=size,
        queries=draw(queries, label="queries"),
        keys=draw(keys, label="keys") if across else None,
        dtype=draw(st.sampled_from(simplest_first(claims.dtypes)), label="dtype"),
        weights_dtype=draw(weights_dtype, label="weights_dtype"),
        zeros=draw(zeros, label="zeros"),
        gain=draw(st.sampled_from((1.0, 0.1, 10.0)), label="gain"),
        mask=None if is_causal else draw(mask, label="mask"),
        causal=is_causal,
        change=draw(change, label="change"),
        seed=draw(sizes.seeds, label="seed"),
    )


@st.composite
def constructor_arguments(
    draw: DrawFn, scope: Scope, *, n_state: SearchStrategy[int], n_head: SearchStrategy[int]
) -> SizesCase:
    """Arguments of a constructor."""
    return SizesCase(
        n_state=draw(n_state, label="n_state"),
        n_head=draw(n_head, label="n_head"),
        causal=scope.has("causal") and draw(st.booleans(), label="causal"),
        dtype=draw(st.sampled_from(simplest_first(scope.claims.dtypes)), label="dtype"),
        seed=draw(sizes.seeds, label="seed"),
    )


def faulty(scope: Scope, prefix: str) -> SearchStrategy[KernelCase]:
    """Valid small problems, each with a fault of the group named by `prefix` that its window has room for."""
    options = []
    for window in scope.windows:
        # Modules are asked for every check; kernels that claim none may read out of bounds without it.
        names = named(prefix, window, unsafe=window != "kernel" or scope.has("validates"))
        if names:
            here = replace(scope, windows=(window,))
            cases = kernel_cases(here, fault=st.sampled_from(names), queries=sizes.short_lengths)
            options.append(
                (1 + len(names) // 4, cases)
            )  # a window with more of them has more of the examples
    return weighted(*options)
