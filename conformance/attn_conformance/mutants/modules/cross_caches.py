"""Lies about a cache in cross-attention: what is stored, found again, masked, projected again, or stored once more."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np

from attn_conformance.mutants.modules import Array, Cache, Pair, Plain, module_mutant
from attn_conformance.mutants.plain import widen

# --- the entry wins


@module_mutant(
    "xa-projected-in-every-call",
    requirement="CACHE-4",
    bug_class="STALE",
    seen_in=("https://github.com/keras-team/keras-hub/pull/1434",),
    also_fails={"CACHE-8": "xa is projected again"},
)
class XaProjectedInEveryCall(Plain):
    """A later xa replaces the cached entry, as if nothing had been stored."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        if xa is None or kv_cache is None:
            return super().keys_and_values(x, xa, kv_cache)
        pair = self.project(xa)
        self.store(kv_cache, pair)
        return pair


@module_mutant(
    "cross-entry-found-by-the-object-xa",
    requirement="CACHE-4",
    bug_class="CACHEKEY",
    seen_in=("https://github.com/openvinotoolkit/openvino.genai/issues/3722",),
)
class CrossEntryFoundByTheObjectXa(Plain):
    """The entry is used only for the very array that it was made of; any other xa is projected and replaces it."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        if xa is not None and kv_cache is not None:
            if kv_cache.get((self.key, "xa")) is not xa:
                self.store(kv_cache, self.project(xa))
            kv_cache[self.key, "xa"] = xa
        return super().keys_and_values(x, xa, kv_cache)


@module_mutant(
    "value-read-from-the-key-entry",
    requirement="CACHE-4",
    bug_class="CACHEKEY",
    seen_in=("https://github.com/huggingface/transformers/issues/34232",),
)
class ValueReadFromTheKeyEntry(Plain):
    """A cached cross-attention call takes its values from the entry of the keys."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        warm = xa is not None and self.stored(kv_cache) is not None
        k, v = super().keys_and_values(x, xa, kv_cache)
        return k, k if warm else v


@module_mutant(
    "no-scale-on-the-cached-branch",
    requirement="CACHE-4",
    bug_class="SCALE",
    seen_in=("https://github.com/NVIDIA/Megatron-LM/pull/848",),
)
class NoScaleOnTheCachedBranch(Plain):
    """Keys are scaled where they are projected, and a cached cross-attention call goes without the scale."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        warm = xa is not None and self.stored(kv_cache) is not None
        k, v = super().keys_and_values(x, xa, kv_cache)
        undone = (self.n_state / self.n_head) ** 0.5
        return (undone * widen(k)).astype(k.dtype) if warm else k, v


@module_mutant(
    "cross-entry-grows",
    requirement="CACHE-4",
    bug_class="STALE",
    seen_in=("https://github.com/huggingface/transformers/pull/48000",),
    also_fails={"CACHE-8": "the length is not S"},
)
class CrossEntryGrows(Plain):
    """Every cross-attention call appends the projections of its xa, and attends to those of all calls."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        entry = self.stored(kv_cache)
        if xa is None or kv_cache is None or entry is None:
            return super().keys_and_values(x, xa, kv_cache)
        pair = self.join(entry, self.project(xa))
        self.store(kv_cache, pair)
        return pair

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if mask is not None:
            k, v = k[:, -mask.shape[-1] :], v[:, -mask.shape[-1] :]
        return super().between(q, k, v, mask)


# --- masks over the keys of an entry


@module_mutant(
    "no-mask-beside-a-cross-entry",
    requirement="CACHE-6",
    bug_class="CROSS",
    seen_in=("https://github.com/speechbrain/speechbrain/issues/1107",),
)
class NoMaskBesideACrossEntry(Plain):
    """The padding mask of xa counts in the call that stores its keys; the steps that reuse them go without."""

    reuses = False

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        self.reuses = xa is not None and self.stored(kv_cache) is not None
        return super().keys_and_values(x, xa, kv_cache)

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return super().between(q, k, v, None if self.reuses else mask)


# --- length and work


class _Measured(Plain):
    """Right, with the used length of an entry beside it, so that an entry may be longer than what is used."""

    def stored(self, kv_cache: Cache) -> Pair | None:
        entry = super().stored(kv_cache)
        if entry is None or kv_cache is None:
            return None
        used = kv_cache[self.key, "used"]
        return entry[0][:, :used], entry[1][:, :used]

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        super().store(kv_cache, pair)
        kv_cache[self.key, "used"] = pair[0].shape[1]

    def lengthen(self, kv_cache: MutableMapping[Any, Any], more: Pair) -> None:
        """Put more behind an entry, where nobody looks."""
        kv_cache[self.key] = np.concatenate([kv_cache[self.key], more[0]], 1)
        kv_cache[self.value] = np.concatenate([kv_cache[self.value], more[1]], 1)


@module_mutant(
    "cross-entry-joined-with-itself",
    requirement="CACHE-8",
    bug_class="CACHEUPD",
    seen_in=("https://github.com/huggingface/transformers/pull/48000",),
    twin=_Measured,
    also_fails={"CACHE-9": "what a truncated entry holds was not all used"},
)
class CrossEntryJoinedWithItself(_Measured):
    """Every cached cross-attention call puts the entry's first S keys behind it once more: results stay right."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        warm = xa is not None and self.stored(kv_cache) is not None
        pair = super().keys_and_values(x, xa, kv_cache)
        if warm and kv_cache is not None:
            self.lengthen(kv_cache, pair)
        return pair


@module_mutant(
    "cache-grows-twice",
    requirement="CACHE-8",
    bug_class="CACHEUPD",
    seen_in=("https://github.com/MemTensor/MemOS/pull/2359",),
    twin=_Measured,
    also_fails={"CACHE-9": "what a truncated entry holds was not all used"},
)
class CacheGrowsTwice(_Measured):
    """New keys are stored twice, the second time where nobody looks: results stay right."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        pair = super().keys_and_values(x, xa, kv_cache)
        if xa is None and kv_cache is not None:
            T = x.shape[1]
            self.lengthen(kv_cache, (pair[0][:, pair[0].shape[1] - T :], pair[1][:, pair[1].shape[1] - T :]))
        return pair


@module_mutant(
    "values-of-xa-projected-again",
    requirement="CACHE-8",
    bug_class="PERF",
    seen_in=("https://github.com/openai/whisper/commit/9f70a352f9f8630ab3aa0d06af5cb9532bd8c21d",),
)
class ValuesOfXaProjectedAgain(Plain):
    """Keys are looked up first and values with a default that is computed: half of xa's projections are still made."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        if xa is None or kv_cache is None or self.key not in kv_cache:
            return super().keys_and_values(x, xa, kv_cache)
        self.check_forward(x, xa, None, kv_cache)
        return kv_cache[self.key], kv_cache.get(self.value, self.value(xa))


@module_mutant(
    "xa-projected-and-thrown-away",
    requirement="CACHE-8",
    bug_class="PERF",
    seen_in=("https://github.com/openai/whisper/commit/9f70a352f9f8630ab3aa0d06af5cb9532bd8c21d",),
)
class XaProjectedAndThrownAway(Plain):
    """The entry is looked up with a default that is computed first: xa is projected in every call, and not used."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        if xa is None or kv_cache is None:
            return super().keys_and_values(x, xa, kv_cache)
        pair = kv_cache.get(self.key, self.key(xa)), kv_cache.get(self.value, self.value(xa))
        self.store(kv_cache, pair)
        return pair
