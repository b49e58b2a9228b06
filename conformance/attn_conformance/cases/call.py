"""One call as arrays: what a case becomes before it is lowered for the oracle and handed to a subject."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import masks, values
from attn_conformance.cases.case import KernelCase

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Call:
    """Arrays in the storage dtype: q (B, H, T, D), k (B, Hkv, S, D), v (B, Hkv, S, Dv), mask or None."""

    q: Array
    k: Array
    v: Array
    mask: Array | None = None
    is_causal: bool = False
    scale: float | None = None
    layout: str = "contiguous"
    laid_out: str = "qkv"
    grad: str = "off"
    window: str = "kernel"
    fault: str = "none"

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """(B, H, T, S)."""
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    @property
    def heads(self) -> int:
        """H."""
        return int(self.q.shape[1])

    @property
    def head_size(self) -> int:
        """D."""
        return int(self.q.shape[3])

    def lays_out(self, name: str) -> bool:
        """Whether the layout is that of an argument: x carries the queries, xa the keys and values."""
        carried = {"x": "q" if self.window == "cross" else "qkv", "xa": "kv"}.get(name, name)
        return any(part in self.laid_out for part in carried)

    @property
    def dtype(self) -> str:
        """Name of q's dtype."""
        return str(self.q.dtype.name)

    def arrays(self) -> dict[str, Array]:
        """The array arguments by name, mask left out when None."""
        named = {"q": self.q, "k": self.k, "v": self.v}
        return named if self.mask is None else {**named, "mask": self.mask}

    def with_array(self, name: str, array: Array) -> Call:
        """The same call with another q, k, v or mask."""
        changed: dict[str, Any] = {name: array}
        return replace(self, **changed)

    def contiguous(self) -> Call:
        """The same values without any strides to trip over."""
        mask = None if self.mask is None else np.ascontiguousarray(self.mask)
        return replace(self, layout="contiguous", mask=mask)


def build(case: KernelCase) -> Call:
    """The call of a case, without the calls before it; its fault is put in where the arrays are handed over."""
    B, T, S = case.batch, case.queries, case.keys
    shapes = (
        (B, case.heads, T, case.head_size),
        (B, case.kv_heads, S, case.head_size),
        (B, case.kv_heads, S, case.value_size),
    )
    q, k, v = values.draw(np.random.default_rng((case.seed, 1)), shapes, case.values, case.dtype)
    if case.layout == "expanded" and B:
        k[:], v[:] = k[:1], v[:1]
    mask = None
    if case.mask is not None:
        rng = np.random.default_rng((case.seed, 2))
        mask = masks.make(rng, case.mask, B, case.heads, T, S, q.dtype)
    if case.poison != "none" and mask is not None:
        rng = np.random.default_rng((case.seed, 3))
        q, k, v = values.poison(rng, q, k, v, _unseen(mask, case), case.poison)
    return Call(
        q, k, v, mask, case.causal, case.scale, case.layout, case.laid_out, case.grad, case.window, case.fault
    )


def _unseen(mask: Array, case: KernelCase) -> Array:
    """(B, Hkv, S): keys that no query of their batch element and key head may see."""
    allowed = mask if mask.dtype == np.bool_ else mask.astype(np.float64) > -np.inf
    full = np.broadcast_to(allowed, (case.batch, case.heads, case.queries, case.keys))
    grouped = full.reshape(case.batch, case.kv_heads, -1, case.keys)
    return np.asarray(~grouped.any(axis=2))
