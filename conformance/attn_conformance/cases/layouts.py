"""Memory layouts: the same values under other strides."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LAYOUTS = ("contiguous", "transposed", "sliced", "inner", "expanded", "reversed")
"""transposed: heads and length swapped in memory, or batch and length where heads are merged; sliced: a view of a
larger array; inner: every other element of the last axis; expanded: stride 0 over the batch of k and v; reversed:
negative strides along the length."""

JUNK = 7.0
"""What lies between the elements of a sliced view: finite and unlike the data."""


def arrange(array: Array, layout: str, *, expandable: bool) -> Array:
    """`array` (3-D or 4-D, C-contiguous) with equal values and the strides of `layout`.

    expandable: whether this array takes part in "expanded"; its batch elements are then equal.
    """
    if layout == "transposed":
        first, second = (1, 2) if array.ndim == 4 else (0, 1)
        return np.ascontiguousarray(array.swapaxes(first, second)).swapaxes(first, second)
    if layout == "sliced":
        outer = np.full([n + 2 for n in array.shape], JUNK, array.dtype)
        view = outer[tuple(slice(1, 1 + n) for n in array.shape)]
        view[...] = array
        return view
    if layout == "inner":
        outer = np.full((*array.shape[:-1], 2 * array.shape[-1]), JUNK, array.dtype)
        view = outer[..., ::2]
        view[...] = array
        return view
    if layout == "expanded" and expandable:
        return np.broadcast_to(array[:1].copy(), array.shape) if array.shape[0] else array
    if layout == "reversed":
        return np.ascontiguousarray(array[..., ::-1, :])[..., ::-1, :]
    return array


def misread(array: Array) -> Array:
    """What a kernel sees that takes the elements in memory order: the values that PURE-5 must tell apart."""
    base = array
    while isinstance(base.base, np.ndarray):
        base = base.base
    flat = base.reshape(-1) if base.size else base.ravel()
    return np.resize(flat, array.shape)
