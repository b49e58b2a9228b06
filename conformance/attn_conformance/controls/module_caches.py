"""Right modules that differ in what they keep in a cache, and under which keys."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np

from attn_conformance.controls.inputs import Array
from attn_conformance.controls.modules import module_control
from attn_conformance.mutants import quiet
from attn_conformance.mutants.modules.plain import Cache, Pair, Plain

# ruff: noqa: D102  # what is overridden is documented in the plain module

OPAQUE = ("cache-edits",)
"""What a module does not claim whose entries a caller cannot edit."""


@module_control("spare-room-cache", without=OPAQUE)
class SpareRoomCache(Plain):
    """Keys and values lie in a buffer with spare room, which doubles when it is full; the used length is beside it."""

    def stored(self, kv_cache: Cache) -> Pair | None:
        if kv_cache is None or (self.key, "room") not in kv_cache:
            return None
        buffer, used = kv_cache[self.key, "room"]
        return buffer[0, :, :used], buffer[1, :, :used]

    def join(self, old: Pair, new: Pair) -> Pair:
        length = old[0].shape[1]
        needed = length + new[0].shape[1]
        buffer = old[0].base
        assert buffer is not None
        if buffer.shape[2] < needed:
            larger = np.full((2, len(old[0]), 2 * needed, old[0].shape[2]), np.nan, old[0].dtype)
            larger[:, :, :length] = old
            buffer = larger
        buffer[:, :, length:needed] = new
        return buffer[0, :, :needed], buffer[1, :, :needed]

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        B, used, N = pair[0].shape
        buffer = pair[0].base
        if buffer is None or buffer.ndim != 4:
            buffer = np.full((2, B, used + 16, N), np.nan, pair[0].dtype)
            buffer[:, :, :used] = pair
        kv_cache[self.key, "room"] = buffer, used


@module_control("stacked-cache", without=OPAQUE)
class StackedCache(Plain):
    """One array (2, B, S, n_state) under the module itself."""

    def stored(self, kv_cache: Cache) -> Pair | None:
        if kv_cache is None or self not in kv_cache:
            return None
        k, v = kv_cache[self]
        return k, v

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        kv_cache[self] = np.stack(pair)


@module_control("chunked-cache", without=OPAQUE)
class ChunkedCache(Plain):
    """Each chunk is kept as it came, and they are joined in every call."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        if kv_cache is None:
            return super().keys_and_values(x, xa, kv_cache)
        chunks = kv_cache.get((self.key, "chunks"), ())
        if xa is None or not chunks:
            chunks = (*chunks, self.project(x if xa is None else xa))
            kv_cache[self.key, "chunks"] = chunks
        return self.whole(chunks)

    def whole(self, chunks: tuple[Pair, ...]) -> Pair:
        """All chunks as one."""
        return np.concatenate([k for k, _ in chunks], 1), np.concatenate([v for _, v in chunks], 1)

    def stored(self, kv_cache: Cache) -> Pair | None:
        chunks = () if kv_cache is None else kv_cache.get((self.key, "chunks"), ())
        return self.whole(chunks) if chunks else None


@module_control("split-entries-cache", without=OPAQUE)
class SplitEntriesCache(Plain):
    """Entries are kept split into heads, (B, H, S, D), cross-attention's under keys of their own."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        pair = super().keys_and_values(x, xa, kv_cache)
        if kv_cache is not None and xa is not None and (self.key, "cross") not in kv_cache:
            kv_cache[self.key, "cross"] = kv_cache.pop((self.key, "heads"))
        return pair

    def stored(self, kv_cache: Cache) -> Pair | None:
        if kv_cache is None:
            return None
        for name in ("heads", "cross"):
            if (self.key, name) in kv_cache:
                k, v = (self.merge(heads) for heads in kv_cache[self.key, name])
                return k, v
        return None

    def store(self, kv_cache: MutableMapping[Any, Any], pair: Pair) -> None:
        kv_cache[self.key, "heads"] = tuple(self.split(x).copy() for x in pair)


@module_control("cache-written-last")
class CacheWrittenLast(Plain):
    """The cache is written when the result is there, and holds read-only views, the values first."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        draft = None if kv_cache is None else dict(kv_cache)
        out = super().__call__(x, xa, mask, draft)
        if kv_cache is not None and draft is not None:
            for part in (self.value, self.key):
                kv_cache[part] = draft[part].view()
                kv_cache[part].flags.writeable = False
        return out
