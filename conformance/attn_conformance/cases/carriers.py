"""Carriers: weights that carry q, k and v through a module's projections without a rounding.

Every weight matrix holds zeros and, in some rows, a single one: a projection then selects features of x, exactly and
in any arithmetic, and `out` puts the features back. So forward attends with any q, k and v that a case draws, and
its result obeys the kernel's bound; biases and random weights are the business of `ForwardCase`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases.values import STORAGE

Array = NDArray[Any]


@dataclass(frozen=True)
class Carrier:
    """heads: H. used: the features of a head that a case fills. width: D of the module, at least `parts` times that.

    parts: how many arrays a token carries: 3 (q, k, v of self-attention), or 2 (k and v in xa, q alone in x).
    variant: another one selects other features, as another module's weights do.
    """

    heads: int
    used: int
    width: int
    parts: int
    variant: int = 0

    @property
    def n_state(self) -> int:
        """Size of the last axis of x."""
        return self.heads * self.width

    @cached_property
    def place(self) -> Array:
        """(parts, H, used): the feature of x that holds each feature of each part."""
        rng = np.random.default_rng((self.n_state, self.parts, self.variant))
        size = self.parts * self.heads * self.used
        return np.asarray(rng.permutation(self.n_state)[:size].reshape(self.parts, self.heads, self.used))

    @cached_property
    def back(self) -> Array:
        """(H, width): the feature of the result at which `out` puts each feature of each head."""
        rng = np.random.default_rng((self.n_state, self.parts, self.variant, 1))
        return np.asarray(rng.permutation(self.n_state).reshape(self.heads, self.width))

    def pack(self, *parts: Array) -> Array:
        """Tokens (B, L, n_state) that carry the parts (B, H, L, used); features of no part are 0."""
        B, _, L, _ = parts[0].shape
        x = np.zeros((B, L, self.n_state), parts[0].dtype)
        for part, place in zip(parts, self.place, strict=False):
            x[..., place.reshape(-1)] = part.transpose(0, 2, 1, 3).reshape(B, L, place.size)
        return x

    def unpack(self, x: Array) -> tuple[Array, ...]:
        """The parts (B, H, L, used) that tokens carry."""
        return tuple(x[..., place].transpose(0, 2, 1, 3) for place in self.place)

    def heads_of(self, y: Array) -> Array:
        """The heads (B, H, L, used) of a result (B, L, n_state) of the module."""
        return np.ascontiguousarray(y[..., self.back[:, : self.used]].transpose(0, 2, 1, 3))

    def params(self, dtype: str) -> dict[str, Array]:
        """The parameters, by the names of CTOR-4."""
        return dict(_params(self, dtype))


@lru_cache(maxsize=256)
def carrier(heads: int, used: int, width: int, parts: int, variant: int = 0) -> Carrier:
    """The carrier of these sizes: one object, whose places are found once."""
    return Carrier(heads, used, width, parts, variant)


@lru_cache(maxsize=32)
def _params(carrier: Carrier, dtype: str) -> dict[str, Array]:
    size = carrier.n_state
    rows = np.arange(size).reshape(carrier.heads, carrier.width)[:, : carrier.used].reshape(-1)
    query, key, value, out = (np.zeros((size, size), STORAGE[dtype]) for _ in range(4))
    first_key = carrier.parts - 2
    query[rows, carrier.place[0].reshape(-1)] = 1
    key[rows, carrier.place[first_key].reshape(-1)] = 1
    value[rows, carrier.place[first_key + 1].reshape(-1)] = 1
    out[carrier.back.reshape(-1), np.arange(size)] = 1
    none = np.zeros(size, STORAGE[dtype])
    return {
        "query.weight": query,
        "query.bias": none,
        "key.weight": key,
        "value.weight": value,
        "value.bias": none,
        "out.weight": out,
        "out.bias": none,
    }


def merge(heads: Array) -> Array:
    """(B, H, L, D) as (B, L, H D)."""
    B, H, L, D = heads.shape
    return np.ascontiguousarray(heads.transpose(0, 2, 1, 3)).reshape(B, L, H * D)


def split(merged: Array, heads: int) -> Array:
    """(B, L, H D) as (B, H, L, D)."""
    B, L, N = merged.shape
    return np.ascontiguousarray(merged.reshape(B, L, heads, N // heads).transpose(0, 2, 1, 3))
