"""Lies about who owns an entry: other modules, other caches, the caller's arrays, batches, edits and forks."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

import itertools
from collections.abc import MutableMapping
from typing import Any

import numpy as np

from attn_conformance.mutants.modules import Array, Cache, Pair, Plain, module_mutant

# --- several modules, several caches


class _Named(Plain):
    """A module whose entries have two keys of its own choice."""

    def names(self) -> tuple[Any, Any]:
        """The keys of its entries."""
        return self.key, self.value

    def stored(self, kv_cache: Cache) -> Pair | None:
        k, v = self.names()
        return None if kv_cache is None or k not in kv_cache else (kv_cache[k], kv_cache[v])

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        k, v = self.names()
        kv_cache[k], kv_cache[v] = pair


@module_mutant(
    "fixed-cache-names",
    requirement="CACHE-5",
    bug_class="CACHEKEY",
    seen_in=("https://github.com/facebookresearch/fairseq/issues/3732",),
    twin=_Named,
    without=("cache-edits",),
)
class FixedCacheNames(_Named):
    """Entries are called "k" and "v": modules that share a cache read each other's."""

    def names(self) -> tuple[Any, Any]:
        return "k", "v"


@module_mutant(
    "cache-keyed-by-shape",
    requirement="CACHE-5",
    bug_class="CACHEKEY",
    seen_in=("https://github.com/NVIDIA/TensorRT-LLM/issues/16801",),
    twin=_Named,
    without=("cache-edits",),
)
class CacheKeyedByShape(_Named):
    """Entries are keyed by n_state, n_head and causal: two layers of one kind read each other's."""

    def names(self) -> tuple[Any, Any]:
        kind = self.n_state, self.n_head, self.causal
        return ("key", *kind), ("value", *kind)


@module_mutant(
    "cache-key-copied-with-the-module",
    requirement="CACHE-5",
    bug_class="CACHEKEY",
    seen_in=("https://github.com/facebookresearch/fairseq/issues/3732",),
    twin=_Named,
    without=("cache-edits",),
)
class CacheKeyCopiedWithTheModule(_Named):
    """Each module constructed takes a number for its entries, and a deepcopy has that of the original."""

    numbers = itertools.count()

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.number = next(self.numbers)

    def names(self) -> tuple[Any, Any]:
        return ("key", self.number), ("value", self.number)


@module_mutant(
    "cross-keys-kept-on-the-module",
    requirement="CACHE-5",
    bug_class="STALE",
    seen_in=(
        "https://github.com/ggml-org/whisper.cpp/issues/2445",
        "https://github.com/huggingface/transformers/pull/45773",
    ),
)
class CrossKeysKeptOnTheModule(Plain):
    """Cross-attention with a cache keeps K and V in the module: a second cache still gets the first xa's."""

    kept: Pair | None = None

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        if xa is None or kv_cache is None or self.stored(kv_cache) is not None:
            return super().keys_and_values(x, xa, kv_cache)
        if self.kept is None or self.kept[0].shape != xa.shape or self.kept[0].dtype != xa.dtype:
            self.kept = self.project(xa)
        self.store(kv_cache, self.kept)
        return self.kept


@module_mutant(
    "cached-keys-kept-by-length",
    requirement="CACHE-5",
    bug_class="STALE",
    seen_in=("https://github.com/ggml-org/whisper.cpp/issues/2445",),
    without=("cache-edits",),
)
class CachedKeysKeptByLength(Plain):
    """The module goes on from the keys that it stored last, wherever that was, if a cache has as many."""

    last: Pair | None = None

    def join(self, old: Pair, new: Pair) -> Pair:
        fits = self.last is not None and self.last[0].shape == old[0].shape
        return super().join(self.last if self.last is not None and fits else old, new)

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        super().store(kv_cache, pair)
        self.last = pair


@module_mutant(
    "projection-buffer-recycled",
    requirement="CACHE-5",
    bug_class="ALIAS",
    seen_in=("https://github.com/MemTensor/MemOS/pull/2359",),
    also_fails={
        "CACHE-7": "a call without the cache changes its entry too",
        "CACHE-9": "forks hold one buffer",
    },
)
class ProjectionBufferRecycled(Plain):
    """The first keys of every sequence are projected into one buffer for each shape, and the entry is that buffer."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.buffers: dict[Any, Array] = {}

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        k, v = super().keys_and_values(x, xa, kv_cache)
        if kv_cache is not None and k.shape[1] == (x if xa is None else xa).shape[1]:
            buffer = self.buffers.setdefault((k.shape, k.dtype), k)
            buffer[...] = k
            self.store(kv_cache, (buffer, v))
        return k, v


# --- entries that are not the cache's own


@module_mutant(
    "inputs-cached-unprojected",
    requirement="CACHE-7",
    bug_class="ALIAS",
    seen_in=("https://github.com/MemTensor/MemOS/pull/2359",),
    also_fails={"CACHE-8": "a cached xa is projected again"},
    without=("cache-edits",),
)
class InputsCachedUnprojected(Plain):
    """The cache holds the caller's own arrays, projected anew in each call: what they hold then counts."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        if kv_cache is None:
            return super().keys_and_values(x, xa, kv_cache)
        sources = kv_cache.get((self.key, "inputs"), ())
        if xa is None or not sources:
            sources = (*sources, x if xa is None else xa)
        kv_cache[self.key, "inputs"] = sources
        pair = self.project(np.concatenate(sources, 1))
        self.store(kv_cache, pair)
        return pair


@module_mutant(
    "batch-beyond-the-entry-cut",
    requirement="CACHE-7",
    bug_class="BATCH",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/772",),
    also_fails={"CACHE-10": "what happens at a batch of 1 is observed"},
)
class BatchBeyondTheEntryCut(Plain):
    """Where an entry has another batch size than x, its rows are taken modulo their number."""

    def check_forward(self, x: Array, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        entry = self.stored(kv_cache)
        odd = entry is not None and isinstance(x, np.ndarray) and x.ndim == 3
        if odd and entry is not None and kv_cache is not None and 0 < len(entry[0]) != len(x):
            rows = np.arange(len(x)) % len(entry[0])
            kv_cache = {**kv_cache, self.key: entry[0][rows], self.value: entry[1][rows]}
        super().check_forward(x, xa, mask, kv_cache)

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        entry = self.stored(kv_cache)
        if entry is not None and kv_cache is not None and len(entry[0]) != len(x):
            rows = np.arange(len(x)) % len(entry[0])
            self.store(kv_cache, (entry[0][rows], entry[1][rows]))
        return super().keys_and_values(x, xa, kv_cache)


# --- edits and forks


@module_mutant(
    "edited-entries-ignored",
    requirement="CACHE-9",
    bug_class="CACHEKEY",
    seen_in=("https://github.com/huggingface/transformers/issues/46612",),
)
class EditedEntriesIgnored(Plain):
    """A private copy of the last entry is used in place of the cache's where both have one shape: beams stay put."""

    private: tuple[int, Pair] | None = None

    def stored(self, kv_cache: Cache) -> Pair | None:
        entry = super().stored(kv_cache)
        if entry is None or self.private is None:
            return entry
        owner, pair = self.private
        return pair if owner == id(kv_cache) and pair[0].shape == entry[0].shape else entry

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        super().store(kv_cache, pair)
        self.private = id(kv_cache), pair


@module_mutant(
    "forks-share-a-growing-buffer",
    requirement="CACHE-9",
    bug_class="ALIAS",
    seen_in=("https://github.com/MemTensor/MemOS/pull/2359",),
)
class ForksShareAGrowingBuffer(Plain):
    """An entry is a view into a buffer with room, where new keys are written: two forks write to one place."""

    def join(self, old: Pair, new: Pair) -> Pair:
        return self.grown(old[0], new[0]), self.grown(old[1], new[1])

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        super().store(kv_cache, self.join(pair, (pair[0][:, :0], pair[1][:, :0])))

    def grown(self, old: Array, new: Array) -> Array:
        """Old and new in one view; a new buffer unless the old one begins like `old` and has room."""
        length = old.shape[1] + new.shape[1]
        buffer = old.base
        if not (
            buffer is not None
            and buffer.ndim == 3
            and (buffer.ctypes.data, buffer.strides, len(buffer)) == (old.ctypes.data, old.strides, len(old))
            and buffer.shape[1] >= length
        ):
            buffer = np.zeros((len(old), 2 * length + 16, old.shape[2]), new.dtype)
            buffer[:, : old.shape[1]] = old
        buffer[:, old.shape[1] : length] = new
        return buffer[:, :length]


@module_mutant(
    "value-entry-not-reordered",
    requirement="CACHE-9",
    bug_class="CACHEKEY",
    seen_in=("https://github.com/huggingface/transformers/issues/34232",),
)
class ValueEntryNotReordered(Plain):
    """Edits of keys are honoured; values come from a copy beside the cache's entry, where their shapes agree."""

    def stored(self, kv_cache: Cache) -> Pair | None:
        entry = super().stored(kv_cache)
        if entry is None or kv_cache is None:
            return entry
        copy = kv_cache.get((self.value, "copy"), entry[1])
        return entry[0], copy if copy.shape == entry[1].shape else entry[1]

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        super().store(kv_cache, pair)
        kv_cache[self.value, "copy"] = pair[1].copy()
