"""Lies about a cache in self-attention: what is kept, in which order, and what a chunk sees of it."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import quiet
from attn_conformance.mutants.modules import Array, Cache, Pair, Plain, module_mutant
from attn_conformance.mutants.plain import attention, hide_future, product, scores, softmax, triangle

# --- no cache, and an empty one


@module_mutant(
    "empty-cache-switches-causality-off",
    requirement="CACHE-1",
    bug_class="CHUNK",
    seen_in=("https://github.com/Mikyx-1/TinyLLM/pull/18",),
    also_fails={"CACHE-2": "the first chunk of a sequence sees its own future"},
)
class EmptyCacheSwitchesCausalityOff(Plain):
    """Causality applies only where no cache is given: an empty one already switches it off."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        asked = self.causal
        self.causal = asked and kv_cache is None
        try:
            return super().__call__(x, xa, mask, kv_cache)
        finally:
            self.causal = asked


@module_mutant(
    "keys-remembered-without-a-cache",
    requirement="CACHE-1",
    bug_class="STALE",
    seen_in=("https://github.com/ggml-org/whisper.cpp/issues/2445",),
    also_fails={"PURE-2": "the same call twice is not the same", "PURE-6": "a call leaves keys for the next"},
)
class KeysRememberedWithoutACache(Plain):
    """Without a cache, self-attention goes on from the last such call of the same batch size, if mask allows it."""

    memory: Pair | None = None

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        pair = super().keys_and_values(x, xa, kv_cache)
        return self.remembered(pair) if xa is None and kv_cache is None else pair

    def remembered(self, pair: Pair) -> Pair:
        """The pair behind what was kept of the last call."""
        old = self.memory
        if old is not None and old[0].shape[0] == pair[0].shape[0] and old[0].dtype == pair[0].dtype:
            pair = self.join(old, pair)
        self.memory = pair
        return pair

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if mask is not None:
            k, v = k[:, -mask.shape[-1] :], v[:, -mask.shape[-1] :]
        return super().between(q, k, v, mask)


@module_mutant(
    "last-cache-goes-on-where-none-is-given",
    requirement="CACHE-1",
    bug_class="STALE",
    seen_in=(
        "https://github.com/time-series-foundation-models/lag-llama/issues/81",
        "https://github.com/ggml-org/whisper.cpp/issues/2445",
    ),
)
class LastCacheGoesOnWhereNoneIsGiven(Plain):
    """Self-attention without a cache attends to the last one that was given, too, if batch size and dtype fit."""

    last: Cache = None

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        new = super().keys_and_values(x, xa, kv_cache)
        if kv_cache is not None:
            self.last = kv_cache
            return new
        old = self.stored(self.last)
        if xa is not None or old is None or len(old[0]) != len(x) or old[0].dtype != x.dtype:
            return new
        return self.join(old, new)

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if mask is not None:
            k, v = k[:, -mask.shape[-1] :], v[:, -mask.shape[-1] :]
        return super().between(q, k, v, mask)


# --- chunks of a causal sequence


@module_mutant(
    "empty-cache-taken-for-none",
    requirement="CACHE-3",
    bug_class="CACHEUPD",
    seen_in=("https://github.com/microsoft/onnxruntime/issues/26262",),
    also_fails={"CACHE-2": "nothing is ever stored", "CACHE-4": "the same"},
)
class EmptyCacheTakenForNone(Plain):
    """An empty cache is false, and so it is taken for None and stays empty."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        return super().__call__(x, xa, mask, kv_cache or None)


@module_mutant(
    "chunk-placed-at-the-start",
    requirement="CACHE-2",
    bug_class="ALIGN",
    seen_in=(
        "https://github.com/huggingface/transformers/pull/30414",
        "https://github.com/tinygrad/tinygrad/pull/15949",
        "https://github.com/onnx/onnx/pull/8068",
    ),
)
class ChunkPlacedAtTheStart(Plain):
    """The offset of a chunk is its own keys minus its queries, 0, where it should be all keys minus its queries."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if not self.causal or q.shape[1] >= k.shape[1]:
            return super().between(q, k, v, mask)
        logits = scores(self.split(q), self.split(k))
        seen = np.where(triangle(q.shape[1], k.shape[1], 0), logits, -np.inf)
        return self.merge(product(softmax(seen), self.split(v), q.dtype))


@module_mutant(
    "causal-only-without-a-prefix",
    requirement="CACHE-2",
    bug_class="CHUNK",
    seen_in=(
        "https://github.com/espnet/espnet/blob/9fdf0c433f0498420f5705ebb83c40b7732f122a/espnet2/speechlm/module/transformer.py",
        "https://github.com/QwenLM/Qwen/issues/979",
    ),
)
class CausalOnlyWithoutAPrefix(Plain):
    """Forward is causal only if T == S: a chunk of two or more behind a cached prefix sees its own future."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        square = self.causal and q.shape[1] == k.shape[1]
        return self.merge(attention(self.split(q), self.split(k), self.split(v), mask, square))


@module_mutant(
    "triangle-hides-the-cached-prefix",
    requirement="CACHE-2",
    bug_class="ALIGN",
    seen_in=("https://github.com/onnx/onnx/pull/7297",),
)
class TriangleHidesTheCachedPrefix(Plain):
    """A causal chunk sees its own keys up to the query, and none of those that were cached."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        T, S = q.shape[1], k.shape[1]
        if not self.causal or T >= S:
            return super().between(q, k, v, mask)
        logits = hide_future(scores(self.split(q), self.split(k)), True)
        seen = np.where(np.arange(S) >= S - T, logits, -np.inf)
        return self.merge(product(softmax(seen), self.split(v), q.dtype))


@module_mutant(
    "new-keys-before-the-old",
    requirement="CACHE-2",
    bug_class="CACHEUPD",
    seen_in=("https://github.com/lucidrains/x-transformers/issues/219",),
    also_fails={"CACHE-6": "the columns of a mask meet other keys"},
)
class NewKeysBeforeTheOld(Plain):
    """New keys and values are put before the cached ones."""

    def join(self, old: Pair, new: Pair) -> Pair:
        return super().join(new, old)


# --- without causality


@module_mutant(
    "only-the-last-16-keys-kept",
    requirement="CACHE-3",
    bug_class="CACHEUPD",
    seen_in=("https://github.com/huggingface/transformers/issues/37574",),
    also_fails={
        "CACHE-2": "a causal sequence loses them too",
        "CACHE-8": "the length is not that of all keys",
    },
)
class OnlyTheLast16KeysKept(Plain):
    """The cache is a window: what lies more than 16 keys back is dropped before the next chunk."""

    def join(self, old: Pair, new: Pair) -> Pair:
        return super().join((old[0][:, -16:], old[1][:, -16:]), new)


@module_mutant(
    "full-cache-overwritten-at-its-end",
    requirement="CACHE-3",
    bug_class="CACHEUPD",
    seen_in=(
        "https://github.com/patrick-kidger/equinox/pull/690",
        "https://github.com/Dao-AILab/flash-attention/issues/638",
    ),
    also_fails={"CACHE-2": "a causal sequence loses them too", "CACHE-8": "the length stops at 32"},
)
class FullCacheOverwrittenAtItsEnd(Plain):
    """The buffer holds 32 keys; past that the write index is clamped, and the newest of them are overwritten."""

    def join(self, old: Pair, new: Pair) -> Pair:
        length, chunk = old[0].shape[1], new[0].shape[1]
        start = max(0, min(length, max(32, chunk) - chunk))
        return super().join((old[0][:, :start], old[1][:, :start]), new)


@module_mutant(
    "warm-cache-is-causal",
    requirement="CACHE-3",
    bug_class="LEAK",
    seen_in=("https://github.com/huggingface/transformers/issues/48172",),
)
class WarmCacheIsCausal(Plain):
    """With cached keys and no mask a chunk is causal, whatever the module was constructed with."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        asked = self.causal
        self.causal = asked or (xa is None and mask is None and self.stored(kv_cache) is not None)
        try:
            return super().__call__(x, xa, mask, kv_cache)
        finally:
            self.causal = asked


# --- masks over cached and new keys


@module_mutant(
    "no-mask-on-a-warm-cache",
    requirement="CACHE-6",
    least={"S": 3},
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/huggingface/transformers/pull/30311",
        "https://github.com/OpenNMT/OpenNMT-py/pull/2532",
    ),
    also_fails={"MASK-8": "a mask is ignored with a cache"},
)
class NoMaskOnAWarmCache(Plain):
    """The mask counts in the first call on a cache, and is skipped from the second on."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        return super().__call__(x, xa, mask if self.stored(kv_cache) is None else None, kv_cache)


@module_mutant(
    "mask-covers-new-keys-only",
    requirement="CACHE-6",
    least={"S": 3},
    bug_class="MSHAPE",
    seen_in=("https://github.com/huggingface/transformers/issues/13175",),
    also_fails={"MASK-9": "a mask (T, T) passes", "MASK-8": "the right one is refused"},
)
class MaskCoversNewKeysOnly(Plain):
    """In self-attention a mask has the last size T, whatever is cached; one for cached and new keys is refused."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        entry = self.stored(kv_cache)
        if mask is not None and xa is None and entry is not None:
            self.check_forward(x, None, mask, None)
            cached = np.full((*mask.shape[:-1], entry[0].shape[1]), mask.dtype == np.bool_, mask.dtype)
            mask = np.concatenate([cached, mask], -1)
        return super().__call__(x, xa, mask, kv_cache)


@module_mutant(
    "cached-keys-always-visible",
    requirement="CACHE-6",
    least={"S": 4},
    bug_class="CHUNK",
    seen_in=("https://github.com/huggingface/candle/pull/3743",),
    also_fails={"MASK-8": "a mask is ignored in part"},
)
class CachedKeysAlwaysVisible(Plain):
    """Of a mask over cached and new keys only the columns of the new ones count: cached keys are visible."""

    prefix = 0

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        entry = self.stored(kv_cache) if xa is None else None
        self.prefix = 0 if entry is None else entry[0].shape[1]
        return super().keys_and_values(x, xa, kv_cache)

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if mask is not None:
            mask = mask.copy()
            mask[..., : self.prefix] = mask.dtype == np.bool_
        return super().between(q, k, v, mask)
