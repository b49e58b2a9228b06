"""Lies about chunks: several new tokens on a cache that holds some already, where a single one is served rightly."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

import numpy as np

from attn_conformance.mutants.modules import Array, Cache, Pair, Plain, module_mutant
from attn_conformance.mutants.plain import NEVER, product, scores, softmax, triangle

SLOTS = 16
"""Room that a cache is given at a time."""


class Chunked(Plain):
    """A right module that knows how many of its keys were cached."""

    prefix = 0

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        entry = self.stored(kv_cache) if xa is None else None
        self.prefix = 0 if entry is None else entry[0].shape[1]
        return super().keys_and_values(x, xa, kv_cache)

    def is_chunk(self, q: Array) -> bool:
        """Whether several queries come behind cached keys."""
        return self.prefix > 0 and q.shape[1] > 1


@module_mutant(
    "slots-read-before-they-are-written",
    requirement="CACHE-3",
    bug_class="CHUNK",
    seen_in=("https://github.com/GeeeekExplorer/nano-vllm/pull/213",),
    twin=Chunked,
)
class SlotsReadBeforeTheyAreWritten(Chunked):
    """A chunk without a mask attends to all slots of the cache, 16 at a time, the empty ones at its end included."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if self.is_chunk(q) and mask is None and not self.causal:
            k, v = (np.pad(part, [(0, 0), (0, -part.shape[1] % SLOTS), (0, 0)]) for part in (k, v))
        return super().between(q, k, v, mask)


@module_mutant(
    "mask-dropped-for-a-chunk",
    requirement="CACHE-6",
    least={"S": 3},
    bug_class="CHUNK",
    seen_in=("https://github.com/huggingface/transformers/pull/30311",),
    twin=Chunked,
    also_fails={"MASK-8": "a mask is ignored with a cache"},
)
class MaskDroppedForAChunk(Chunked):
    """Several new tokens on a warm cache, as in speculative decoding, go without their mask."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return super().between(q, k, v, None if self.is_chunk(q) else mask)


# --- where a chunk lies


class _Placed(Plain):
    """A causal chunk lies `offset` keys behind the first; a mutant says how many these are."""

    offset = 0

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        T, S = q.shape[1], k.shape[1]
        if not self.causal or T >= S:
            return super().between(q, k, v, mask)
        seen = np.where(triangle(T, S, self.offset), scores(self.split(q), self.split(k)), NEVER)
        return self.merge(product(softmax(seen), self.split(v), q.dtype))


@module_mutant(
    "offset-of-the-last-chunk-alone",
    requirement="CACHE-2",
    bug_class="CHUNK",
    seen_in=(
        "https://github.com/mlx-node/mlx-node/pull/33",
        "https://github.com/lablup/mlxcel/pull/891",
    ),
)
class OffsetOfTheLastChunkAlone(_Placed):
    """A causal chunk lies behind the one before it, not behind all that is cached: shows from the third chunk on."""

    before = 0
    """Tokens of the last call on a cache."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        self.offset = 0 if self.stored(kv_cache) is None else self.before
        self.before = x.shape[1]
        return super().keys_and_values(x, xa, kv_cache)


@module_mutant(
    "offset-of-the-first-entry",
    requirement="CACHE-5",
    bug_class="ALIGN",
    seen_in=(
        "https://github.com/fla-org/flash-linear-attention/issues/477",
        "https://github.com/fla-org/flash-linear-attention/issues/747",
    ),
)
class OffsetOfTheFirstEntry(_Placed):
    """A causal chunk lies behind as many keys as the cache's first entry has, whichever module's that is."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        self.offset = next(iter(kv_cache.values())).shape[1] if kv_cache else 0
        return super().keys_and_values(x, xa, kv_cache)


@module_mutant(
    "offset-counted-beside-the-entries",
    requirement="CACHE-9",
    bug_class="CACHEUPD",
    seen_in=("https://github.com/ml-explore/mlx-lm/pull/1486",),
)
class OffsetCountedBesideTheEntries(_Placed):
    """A causal chunk lies behind as many tokens as were ever fed: cut entries leave the count alone."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        if xa is None and kv_cache is not None:
            self.offset = kv_cache.get((self.key, "fed"), 0)
            kv_cache[self.key, "fed"] = self.offset + x.shape[1]
        return super().keys_and_values(x, xa, kv_cache)


# --- masks


@module_mutant(
    "last-row-of-the-mask-for-a-chunk",
    requirement="CACHE-6",
    least={"S": 3},
    bug_class="MSHAPE",
    seen_in=(
        "https://github.com/huggingface/candle/pull/3743",
        "https://github.com/meta-llama/llama/issues/899",
    ),
    twin=Chunked,
)
class LastRowOfTheMaskForAChunk(Chunked):
    """Of the mask of several new tokens on a warm cache the row of the last one serves all."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if mask is not None and self.is_chunk(q):
            mask = mask[..., -1:, :]
        return super().between(q, k, v, mask)


@module_mutant(
    "mask-of-an-earlier-step-kept",
    requirement="CACHE-6",
    bug_class="STATE",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/pull/1028",),
    twin=Chunked,
)
class MaskOfAnEarlierStepKept(Chunked):
    """A mask that was given on a cache holds for the next chunks without one, too, until there is another."""

    kept: Array | None = None

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if not self.prefix:
            self.kept = None
        if mask is None and self.kept is not None and not self.causal:
            old = self.kept[..., -1:, :]
            new = np.full((*old.shape[:-1], k.shape[1] - old.shape[-1]), True)
            return super().between(q, k, v, np.concatenate([old, new], -1))
        self.kept = mask if mask is not None and mask.dtype == np.bool_ else None
        return super().between(q, k, v, mask)
