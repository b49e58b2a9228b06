"""Keys and values kept between calls: a mapping that grows without copying, and what a module asks of any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attn_reference.errors import check_one_device

LEAST_ROOM = 16
"""Rows to spare in a new buffer: a sequence that starts with one token would outgrow fewer at once."""


@dataclass
class _Buffer:
    """(B, capacity, n_state), of which the first `filled` rows are written, once and never again."""

    rows: Tensor
    filled: int


@dataclass(frozen=True)
class _Entry:
    """What the mapping shows, and the buffer whose first rows it is; None where the memory may be another's."""

    tensor: Tensor
    buffer: _Buffer | None = None


class KVCache(MutableMapping[Any, Tensor]):
    """A cache whose entries grow in place: a decode step writes the new keys and does not copy the past.

    To read, to assign and to edit, it is what a dict is: entries are (B, S, n_state) tensors, and one that is
    assigned replaces what was there. Tensors read from it never change when the cache grows. copy.copy and
    .copy() fork it at no cost: neither side sees what the other appends. Caches are equal if they are one.
    """

    def __init__(self, entries: Mapping[Any, Tensor] | None = None) -> None:
        self._entries: dict[Any, _Entry] = {}
        self._appended: dict[Any, _Entry] = {}  # handed out, not assigned yet
        self.update(entries or {})

    def appended(self, key: Any, new: Tensor) -> Tensor:
        """The entry of `key` with `new` (B, n, n_state) behind it, detached; it is stored when it is assigned.

        `cache[key] = cache.appended(key, new)` is one step. Nothing but `new` is copied while there is room;
        a buffer that is full gives way to one half as large again. Raises ValueError where `new` differs
        from the entry in batch size, n_state, dtype or device.
        """
        new = new.detach()
        entry = self._entries.get(key)
        if entry is None:  # as large as it is: entries of cross-attention never grow
            return new.clone()
        _check_continues(entry.tensor, new)
        start = entry.tensor.shape[1]
        stop = start + new.shape[1]
        buffer = entry.buffer
        if buffer is None or buffer.filled != start or buffer.rows.shape[1] < stop:
            # a fork that lags behind takes this way too: the rows behind its own are the other side's
            buffer = _grown(entry.tensor, stop + max(stop // 2, LEAST_ROOM))
        buffer.rows[:, start:stop] = new
        buffer.filled = stop
        self._appended[key] = _Entry(buffer.rows[:, :stop], buffer)
        return self._appended[key].tensor

    def copy(self) -> KVCache:
        """A fork: its entries are these, and from now on the two grow apart."""
        fork = KVCache()
        fork._entries = dict(self._entries)
        return fork

    __copy__ = copy

    def __getitem__(self, key: Any) -> Tensor:
        return self._entries[key].tensor

    def __setitem__(self, key: Any, tensor: Tensor) -> None:
        appended = self._appended.pop(key, None)
        self._entries[key] = appended if appended and appended.tensor is tensor else _Entry(tensor)

    def __delitem__(self, key: Any) -> None:
        del self._entries[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __eq__(self, other: object) -> bool:
        return self is other  # that of Mapping would ask tensors for one truth value

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        lengths = ", ".join(str(entry.tensor.shape[1]) for entry in self._entries.values())
        return f"KVCache(lengths=[{lengths}])"

    def __getstate__(self) -> dict[str, Any]:
        """The entries without their buffers: a view alone would take its whole buffer along."""
        return {"entries": {key: entry.tensor.detach().clone() for key, entry in self._entries.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._entries = {key: _Entry(tensor) for key, tensor in state["entries"].items()}
        self._appended = {}


def held(cache: Any, key: Any, value: Any, n_state: int) -> tuple[Tensor, Tensor] | None:
    """The entries of two projections in a cache (or None for no cache), detached; None where it has none.

    Raises TypeError for what is no mutable mapping or no tensor, and ValueError for entries that cannot
    belong together: one without the other, shapes that are not (B, S, n_state) or differ.
    """
    if cache is None:
        return None
    if not isinstance(cache, MutableMapping):
        raise TypeError(f"kv_cache must be a mutable mapping, got {type(cache).__qualname__}")
    if key not in cache and value not in cache:
        return None
    if key not in cache or value not in cache:
        found = "key" if key in cache else "value"
        raise ValueError(f"kv_cache must hold entries for key and value or for neither, got {found} alone")
    k, v = cache[key], cache[value]
    for name, entry in (("key", k), ("value", v)):
        if not isinstance(entry, Tensor):
            raise TypeError(f"kv_cache[{name}] must be a tensor, got {type(entry).__qualname__}")
        if entry.ndim != 3 or entry.shape[2] != n_state:
            raise ValueError(
                f"kv_cache[{name}] must have shape (B, S, n_state), n_state = {n_state}, "
                f"got shape {tuple(entry.shape)}"
            )
    if k.shape != v.shape:
        raise ValueError(
            f"kv_cache[value] must have the shape of kv_cache[key], {tuple(k.shape)}, got shape {tuple(v.shape)}"
        )
    return k.detach(), v.detach()


def check_entries(entries: tuple[Tensor, Tensor], dtype: torch.dtype, x: Tensor) -> None:
    """Raise ValueError unless the entries have the dtype that new keys will have, and lie where x does."""
    for name, entry in zip(("kv_cache[key]", "kv_cache[value]"), entries, strict=True):
        if entry.dtype != dtype:
            raise ValueError(f"{name} must have the dtype of this call's keys, {dtype}, got {entry.dtype}")
        check_one_device(**{"x": x, name: entry})


def kept_by_hooks(
    cache: Mapping[Any, Tensor], key: Any, past: Tensor | None, new: Tensor, length: int
) -> bool:
    """Whether forward hooks on a projection of `length` rows, whose result is `new`, keep its entry themselves.

    They do if the entry is that result or has grown while projecting, or if more rows came back than went in.
    """
    entry = cache.get(key)
    before, after = (None if x is None else x.shape[1] for x in (past, entry))
    return entry is new or before != after or new.shape[1] > length


def joined(
    cache: MutableMapping[Any, Tensor], key: Any, past: Tensor | None, new: Tensor, live: bool
) -> tuple[Tensor, Tensor]:
    """What a call attends to, past and new, and the entry to store for it, which nobody else writes to.

    live: gradients flow, to `new` alone; then a buffer that later calls write to must not be saved for them.
    """
    appended = getattr(cache, "appended", None)
    entry = None if appended is None else appended(key, new)
    if entry is not None and not live:
        return entry, entry
    whole = torch.cat([new] if past is None else [past, new], dim=1)  # cat of one copies too
    return whole, whole.detach() if entry is None else entry


def store(cache: MutableMapping[Any, Tensor], entries: Mapping[Any, Tensor]) -> None:
    """All of the entries or, where anything raises, none of them."""
    before = {key: cache[key] for key in entries if key in cache}
    try:
        for key, entry in entries.items():
            cache[key] = entry
    except BaseException:
        for key in entries:
            if key in before:
                cache[key] = before[key]
            else:
                cache.pop(key, None)
        raise


def _grown(entry: Tensor, capacity: int) -> _Buffer:
    B, S, n_state = entry.shape
    with torch.inference_mode(False):  # made in inference mode, it could not be written to outside
        rows = entry.new_empty(B, capacity, n_state)
    rows[:, :S] = entry.detach()
    return _Buffer(rows, S)


def _check_continues(entry: Tensor, new: Tensor) -> None:
    wanted, actual = ((x.ndim, x.shape[:1], x.shape[2:], x.dtype, x.device) for x in (entry, new))
    if wanted != actual:
        raise ValueError(
            f"new must continue an entry of shape {tuple(entry.shape)}, {entry.dtype} on {entry.device}, "
            f"got shape {tuple(new.shape)}, {new.dtype} on {new.device}"
        )
