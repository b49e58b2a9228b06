"""Lies about construction: sizes that cannot be split, and the names of things."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

import numpy as np

from attn_conformance.mutants.modules import Array, Cache, Plain, module_mutant
from attn_reference.errors import check_module_sizes

# --- heads that do not divide the state


@module_mutant(
    "assertion-error-for-indivisible-heads",
    requirement="CTOR-1",
    bug_class="VALID",
    seen_in=(
        "https://github.com/espnet/espnet/blob/07d20880c122bb925c33ab5e5da632358b754b71/espnet2/speechlm/module/transformer.py",
        "https://github.com/keras-team/keras/pull/22420",
    ),
)
class AssertionErrorForIndivisibleHeads(Plain):
    """An n_head that does not divide n_state raises AssertionError, as `assert` would: nothing, under `python -O`."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        if n_state > 0 and n_head > 0 and n_state % n_head != 0:
            raise AssertionError("n_head does not evenly divide n_state")
        super().__init__(n_state, n_head, causal)


@module_mutant(
    "trailing-features-dropped",
    requirement="CTOR-1",
    bug_class="VALID",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/1347",),
)
class TrailingFeaturesDropped(Plain):
    """The head size is n_state // n_head: features that are left over take no part, and nothing is raised."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        even = n_head < 1 or n_state <= n_head or n_state % n_head == 0
        super().__init__(n_state, n_head if even else 1, causal)
        self.n_head = n_head

    def split(self, x: Array) -> Array:
        return super().split(x[..., : self.n_state // self.n_head * self.n_head])

    def merge(self, heads: Array) -> Array:
        merged = super().merge(heads)
        return np.pad(merged, [(0, 0), (0, 0), (0, self.n_state - merged.shape[2])])


@module_mutant(
    "heads-lowered-to-a-divisor",
    requirement="CTOR-1",
    bug_class="VALID",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/1116",),
)
class HeadsLoweredToADivisor(Plain):
    """An n_head that does not divide n_state is lowered, without a word, to the next number that does."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        if n_state > 0 and n_head > 0:
            n_head = next(n for n in range(min(n_head, n_state), 0, -1) if n_state % n == 0)
        super().__init__(n_state, n_head, causal)


# --- sizes of zero and below


@module_mutant(
    "zero-division-error-for-no-heads",
    requirement="CTOR-2",
    bug_class="VALID",
    seen_in=("https://github.com/facebookresearch/xformers/issues/683",),
)
class ZeroDivisionErrorForNoHeads(Plain):
    """N_head = 0 raises ZeroDivisionError, from the very check that the heads divide the state."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        if n_state % n_head != 0:
            raise ValueError(f"n_head must divide n_state, {n_state}, got {n_head}")
        super().__init__(n_state, n_head, causal)


@module_mutant(
    "negative-heads-accepted",
    requirement="CTOR-2",
    bug_class="VALID",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/1116",),
)
class NegativeHeadsAccepted(Plain):
    """N_head = -2 divides 8 and is accepted, the sign dropped."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, abs(n_head), causal)


@module_mutant(
    "empty-state-accepted",
    requirement="CTOR-2",
    bug_class="EMPTY",
    seen_in=("https://github.com/pytorch/pytorch/issues/184330",),
)
class EmptyStateAccepted(Plain):
    """N_state = 0 is accepted, since every n_head divides it."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        check_module_sizes(n_state or n_head, n_head)
        super().__init__(n_state or n_head, n_head, causal)
        self.n_state = n_state


# --- names


@module_mutant(
    "causal-unless-told-otherwise",
    requirement="CTOR-4",
    bug_class="LEAK",
    seen_in=("https://github.com/huggingface/transformers/issues/48172",),
)
class CausalUnlessToldOtherwise(Plain):
    """Causality is the default: a module that nobody asked it of hides keys."""

    def __init__(self, n_state: int, n_head: int, causal: bool = True) -> None:
        super().__init__(n_state, n_head, causal)


@module_mutant(
    "heads-counted-under-another-name",
    requirement="CTOR-4",
    bug_class="VALID",
    seen_in=("https://github.com/pytorch/pytorch/issues/20132",),
)
class HeadsCountedUnderAnotherName(Plain):
    """The attribute is num_heads; there is no n_head, but while a call runs."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.num_heads = n_head
        del self.n_head

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.n_head = self.num_heads
        try:
            return super().__call__(x, xa, mask, kv_cache)
        finally:
            del self.n_head

    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        self.n_head = self.num_heads
        try:
            return super().qkv_attention(q, k, v, mask)
        finally:
            del self.n_head
