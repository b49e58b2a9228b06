"""Lies about chunks: several new tokens on a cache that holds some already, where a single one is served rightly."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

import numpy as np

from attn_conformance.mutants.modules import Array, Cache, Pair, Plain, module_mutant

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
