"""Named mask structures: who sees whom, and which finite values are added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases.case import Mask
from attn_reference import largest

Array = NDArray[Any]

TILE = 32
"""Width of the hidden blocks: the smallest key tile in common use."""


def _random(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    return np.asarray(rng.random((i.size, j.size)) < rng.uniform(0.3, 0.9))


def _padding_right(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    return np.asarray((j < rng.integers(1, max(keys, 2))) & (i >= 0))


def _padding_left(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    return np.asarray((j >= rng.integers(1, max(keys, 2))) & (i >= 0))


def _padding_middle(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    start, stop = np.sort(rng.integers(0, keys + 1, 2))
    return np.asarray(((j < start) | (j >= stop)) & (i >= 0))


def _band(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    width = rng.integers(1, max(keys // 2, 2))
    return np.asarray(np.abs(j - i - (keys - queries)) < width)


def _sliding_window(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    last = i + (keys - queries)
    return np.asarray((j <= last) & (j > last - rng.integers(1, max(keys, 2))))


def _prefix(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    return np.asarray((j <= i + (keys - queries)) | (j < rng.integers(1, max(keys, 2))))


def _documents(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    document = np.cumsum(rng.random(max(queries, keys)) < 0.2)
    return np.asarray(document[i] == document[j])


def _block_sparse(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    side = int(rng.choice([2, 4, TILE]))
    open_blocks = rng.random((queries // side + 1, keys // side + 1)) < 0.6
    return np.asarray(open_blocks[i // side, j // side])


def _single_key(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    chosen = rng.integers(0, max(keys, 1), queries)
    return np.asarray(j == chosen[i])


def _hidden_start(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    return np.asarray((j >= min(TILE, max(keys - 1, 0))) & (i >= 0))


def _hidden_tile(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    tile = rng.integers(0, max(keys // TILE, 1))
    return np.asarray((j // TILE != tile) & (i >= 0))


def _all(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    return np.ones((i.size, j.size), bool)


def _none(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    return np.zeros((i.size, j.size), bool)


def _triangle(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    return np.asarray(j <= i + (keys - queries))


def _some_rows_empty(rng: np.random.Generator, i: Array, j: Array, queries: int, keys: int) -> Array:
    visible = rng.random((i.size, j.size)) < 0.7
    visible[rng.integers(0, max(i.size, 1), 1 + i.size // 3) if i.size else []] = False
    return np.asarray(visible)


STRUCTURES: dict[str, Callable[[np.random.Generator, Array, Array, int, int], Array]] = {
    "random": _random,
    "padding-right": _padding_right,
    "padding-left": _padding_left,
    "padding-middle": _padding_middle,
    "band": _band,
    "sliding-window": _sliding_window,
    "prefix": _prefix,
    "documents": _documents,
    "block-sparse": _block_sparse,
    "single-key": _single_key,
    "hidden-start": _hidden_start,
    "hidden-tile": _hidden_tile,
    "all": _all,
    "none": _none,
    "triangle": _triangle,
    "some-rows-empty": _some_rows_empty,
}


def _no_bias(rng: np.random.Generator, i: Array, j: Array, keys: int) -> Array:
    return np.zeros((i.size, j.size))


def _alibi(rng: np.random.Generator, i: Array, j: Array, keys: int) -> Array:
    return np.asarray(-(2.0 ** -rng.integers(0, 6)) * np.abs(j - i))


def _noise(rng: np.random.Generator, i: Array, j: Array, keys: int) -> Array:
    return rng.standard_normal((i.size, j.size)) * 2


def _fine(rng: np.random.Generator, i: Array, j: Array, keys: int) -> Array:
    """A large common part under small differences: 12 and more bits are needed to keep them."""
    return 1000 + np.round(rng.standard_normal((i.size, j.size)) * 4) / 4 + 0.25


def _row_constant(rng: np.random.Generator, i: Array, j: Array, keys: int) -> Array:
    """Constants of either sign; the largest, 1 to 600, is the first row's: from 88 on exp overflows in float32."""
    largest = 10 ** rng.uniform(0, 2.8)  # drawn first: the same for fewer rows
    constants = np.sort(np.abs(rng.standard_normal((i.size, 1))), axis=0)[::-1]
    if i.size:
        constants = constants * largest / constants[0]
    constants[1:] *= rng.choice([-1.0, 1.0], constants[1:].shape)
    return np.broadcast_to(constants, (i.size, j.size)).copy()


def _below_10000(rng: np.random.Generator, i: Array, j: Array, keys: int) -> Array:
    """Wholly below -1e4 and varying by a few units, in steps that float32 holds exactly."""
    return -16384.0 - np.round(np.abs(rng.standard_normal((i.size, j.size))) * 16) / 4


def _filled(rng: np.random.Generator, i: Array, j: Array, keys: int) -> Array:
    """Of a padding mask made by filling: 0 for the first keys, for all others a number that leaves them no weight."""
    low = rng.choice([-1e9, -3.4e38])
    first = rng.integers(1, max(2, keys))
    return np.where(j < first, 0.0, low) + np.zeros((i.size, 1))


BIASES: dict[str, Callable[[np.random.Generator, Array, Array, int], Array]] = {
    "none": _no_bias,
    "alibi": _alibi,
    "noise": _noise,
    "fine": _fine,
    "row-constant": _row_constant,
    "below-10000": _below_10000,
    "filled": _filled,
}

HEAD_SPECIAL = ("first-all-allowed", "first-shortest")
"""Structures that treat batch element 0 apart: it sees everything, or fewer keys than the others."""


def make(
    rng: np.random.Generator, mask: Mask, batch: int, heads: int, queries: int, keys: int, dtype: Any
) -> Array:
    """The mask array, in its dtype, with the shape that its axes spell; dtype: that of q."""
    axes = "11ts" if mask.axes == "ts" else mask.axes
    b, h = (batch if axes[0] == "b" else 1), (heads if axes[1] == "h" else 1)
    i = np.arange(queries)[:, None] if axes[2] == "t" else np.full((1, 1), max(queries - 1, 0))
    j = np.arange(keys)[None, :] if axes[3] == "s" else np.full((1, 1), 0)

    def planes(count: int, plane: Callable[[int], Array]) -> Array:
        if mask.planes == "same":
            return np.repeat(plane(0)[None], count, 0)
        return np.stack([plane(n) for n in range(count)]) if count else np.zeros((0, i.size, j.size))

    def visible_plane(n: int) -> Array:
        structure = mask.structure
        if structure in HEAD_SPECIAL:
            first = n < h
            if structure == "first-all-allowed":
                structure = "all" if first else "padding-right"
            elif first:
                return np.asarray((j < 1) & (i >= 0))
            else:
                structure = "random"
        plane = STRUCTURES[structure](rng, i, j, queries, keys)
        if not mask.empty_rows and keys and axes[3] == "s":
            bare = np.flatnonzero(~plane.any(1))
            plane[bare, rng.integers(0, keys, bare.size)] = True
        elif not mask.empty_rows:
            plane[:] = True
        return plane

    visible = planes(b * h, visible_plane).reshape(b, h, i.size, j.size).astype(bool)
    if mask.dtype == "bool":
        array = visible
    else:
        bias = planes(b * h, lambda n: BIASES[mask.bias](rng, i, j, keys)).reshape(visible.shape)
        kind = np.float32 if mask.dtype == "float32" else dtype
        lowest = -largest(np.dtype(kind).name)
        array = np.where(visible, np.maximum(bias, lowest), -np.inf).astype(kind)
    if mask.axes == "ts":
        array = array[0, 0]
    if mask.layout == "sliced":
        array = inside_larger(array)
    return array


def inside_larger(array: Array) -> Array:
    """The same values as a view of a larger array whose other entries say the opposite."""
    pad = [(1, 2)] * array.ndim
    if array.dtype == np.bool_:
        outer = (
            np.pad(~array, pad, mode="edge") if array.size else np.zeros([n + 3 for n in array.shape], bool)
        )
    else:
        outer = np.full([n + 3 for n in array.shape], 7, array.dtype)
    inner = outer[tuple(slice(1, 1 + n) for n in array.shape)]
    inner[...] = array
    return inner
