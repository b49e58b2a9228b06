"""Scripts on caches: each rule is drawn where it has a meaning, and what is drawn is data."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from attn_conformance.cases import ScriptCase, Step
from attn_conformance.scope import Scope
from attn_conformance.strategies import sizes
from attn_conformance.strategies.kernels import simplest_first

chunks = st.one_of(st.integers(1, 4), st.just(1), st.integers(1, 20), st.sampled_from((16, 31, 33)))
"""Tokens of a call: one, a few, and enough to cross 16, 32 and 64 in a few calls."""


@st.composite
def scripts(
    draw: DrawFn,
    scope: Scope,
    *,
    steps: SearchStrategy[tuple[Step, ...]],
    causal: SearchStrategy[bool] = st.just(False),
    carried: SearchStrategy[bool] = st.just(True),
    copied: SearchStrategy[bool] = st.just(False),
    batch: SearchStrategy[int] = sizes.counts,
) -> ScriptCase:
    """A script of these steps, at sizes where the length of the cache is what counts."""
    claims = scope.claims
    size = st.sampled_from(claims.head_sizes) if claims.head_sizes else st.sampled_from((4, 1, 3, 8))
    is_carried = draw(carried, label="carried")
    head_size = draw(size, label="head_size")
    return ScriptCase(
        batch=draw(batch, label="batch"),
        heads=draw(st.integers(1, 3), label="heads"),
        head_size=max(head_size // 3, 1) if claims.head_sizes and is_carried else head_size,
        dtype=draw(st.sampled_from(simplest_first(claims.dtypes)), label="dtype"),
        causal=scope.has("causal") and draw(causal, label="causal"),
        keys=draw(st.integers(2, 9), label="keys"),
        carried=is_carried,
        copied=draw(copied, label="copied"),
        steps=draw(steps, label="steps"),
        seed=draw(sizes.seeds, label="seed"),
    )


def appended(
    *,
    at_least: int = 2,
    at_most: int = 5,
    length: SearchStrategy[int] = chunks,
    **fields: SearchStrategy[Any],
) -> SearchStrategy[tuple[Step, ...]]:
    """Self-attention steps; fields: others of a Step that are drawn."""
    step = st.builds(Step, act=st.just("self"), length=length, **fields)
    return st.lists(step, min_size=at_least, max_size=at_most).map(tuple)


def decoded(*, at_most: int = 5) -> SearchStrategy[tuple[Step, ...]]:
    """A first chunk of any length and then single tokens, as a decoder does it."""
    first, one = (st.builds(Step, act=st.just("self"), length=n) for n in (chunks, st.just(1)))
    return st.tuples(first, st.lists(one, min_size=1, max_size=at_most - 1)).map(lambda t: (t[0], *t[1]))


def crossed(
    *, at_least: int = 2, at_most: int = 4, **fields: SearchStrategy[Any]
) -> SearchStrategy[tuple[Step, ...]]:
    """Cross-attention steps, each with an xa of its own values; fields: others of a Step that are drawn."""
    step = st.builds(Step, act=st.just("cross"), length=st.integers(1, 6), **fields)
    return st.lists(step, min_size=at_least, max_size=at_most).map(tuple)
