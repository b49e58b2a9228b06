"""Lies about the causal rule in a module, and about a cache that a mask beside causal must leave alone.

What concerns the rule across a cache stands with the caches.
"""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from attn_conformance.mutants import causal, quiet
from attn_conformance.mutants.modules import Array, Cache, Plain, module_mutant
from attn_conformance.mutants.plain import attention

# --- the rule


@module_mutant(
    "causal-ignored-by-forward",
    requirement="CAUSAL-1",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/facebookresearch/xformers/issues/103",
        "https://github.com/pytorch/pytorch/issues/99282",
    ),
)
class CausalIgnoredByForward(Plain):
    """Forward attends without the causal rule; qkv_attention obeys it."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return self.merge(attention(self.split(q), self.split(k), self.split(v), mask))


@module_mutant(
    "causal-ignored-by-qkv-attention",
    requirement="CAUSAL-1",
    bug_class="IGNORED",
    seen_in=("https://github.com/pytorch/pytorch/issues/99282",),
)
class CausalIgnoredByQkvAttention(Plain):
    """qkv_attention attends without the causal rule; forward obeys it."""

    @quiet
    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        self.check_qkv(q, k, v, mask)
        return self.merge(attention(self.split(q), self.split(k), self.split(v), mask))


@module_mutant(
    "one-key-into-the-future-in-the-module",
    requirement="CAUSAL-1",
    bug_class="LEAK",
    seen_in=(
        "https://github.com/huggingface/transformers/issues/39408",
        "https://github.com/rasbt/LLMs-from-scratch/issues/1061",
    ),
)
class OneKeyIntoTheFutureInTheModule(Plain):
    """The triangle is one diagonal too high: query i sees key i + 1."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return causal.one_key_into_the_future(q, k, v, mask, self.causal)


@module_mutant(
    "causal-misses-own-key-in-the-module",
    requirement="CAUSAL-2",
    bug_class="LEAK",
    seen_in=("https://github.com/huggingface/transformers/issues/29623",),
)
class CausalMissesOwnKeyInTheModule(Plain):
    """The triangle is one diagonal too low: query i does not see key i, and the first row is empty."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return causal.causal_misses_own_key(q, k, v, mask, self.causal)


@module_mutant(
    "causal-forgets-beyond-16-keys-in-the-module",
    requirement="CAUSAL-2",
    least={"T": 40, "S": 40},
    bug_class="LEAK",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/1116",),
)
class CausalForgetsBeyond16KeysInTheModule(Plain):
    """A causal call is a sliding window too: keys more than 16 back are dropped."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return causal.causal_forgets_beyond_16_keys(q, k, v, mask, self.causal)


@module_mutant(
    "causal-only-when-square-in-qkv-attention",
    requirement="CAUSAL-3",
    least={"S": 3},
    bug_class="ALIGN",
    seen_in=(
        "https://github.com/espnet/espnet/blob/9fdf0c433f0498420f5705ebb83c40b7732f122a/espnet2/speechlm/module/transformer.py",
    ),
)
class CausalOnlyWhenSquareInQkvAttention(Plain):
    """qkv_attention applies the causal rule only if T == S; forward always does."""

    @quiet
    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        self.check_qkv(q, k, v, mask)
        square = self.causal and q.shape[1] == k.shape[1]
        return self.merge(attention(self.split(q), self.split(k), self.split(v), mask, square))


@module_mutant(
    "top-left-triangle-in-the-module",
    requirement="CAUSAL-3",
    least={"S": 3},
    bug_class="ALIGN",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/144858",
        "https://github.com/espnet/espnet/blob/07d20880c122bb925c33ab5e5da632358b754b71/espnet2/speechlm/module/transformer.py",
    ),
    also_fails={"CACHE-2": "a chunk behind a cached prefix has T < S"},
)
class TopLeftTriangleInTheModule(Plain):
    """The triangle starts at the first key whatever S is: a lone query after a prefix sees only key 0."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return causal.top_left_triangle(q, k, v, mask, self.causal)


# --- a rejected mask and the cache


@module_mutant(
    "cache-grown-before-the-mask-is-rejected",
    requirement="CAUSAL-6",
    bug_class="CACHEUPD",
    seen_in=(
        "https://github.com/espnet/espnet/blob/9fdf0c433f0498420f5705ebb83c40b7732f122a/espnet2/speechlm/module/transformer.py",
    ),
    also_fails={"ERR-3": "that is about every rejected call"},
)
class CacheGrownBeforeTheMaskIsRejected(Plain):
    """A causal module rejects a mask after the projections: their keys and values are already in the cache."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        if self.causal and mask is not None:
            super().__call__(x, xa, None, kv_cache)
        return super().__call__(x, xa, mask, kv_cache)


@module_mutant(
    "cache-emptied-when-the-mask-is-rejected",
    requirement="CAUSAL-6",
    bug_class="CACHEUPD",
    seen_in=("https://github.com/time-series-foundation-models/lag-llama/issues/81",),
    also_fails={"ERR-3": "that is about every rejected call"},
)
class CacheEmptiedWhenTheMaskIsRejected(Plain):
    """A causal module that rejects a mask takes its entry out of the cache first, and never puts it back."""

    def check_forward(self, x: Array, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        if self.causal and mask is not None and kv_cache is not None:
            self.forget(kv_cache)
        super().check_forward(x, xa, mask, kv_cache)

    def forget(self, kv_cache: MutableMapping[Any, Any]) -> None:
        for part in (self.key, self.value):
            kv_cache.pop(part, None)
