"""Output gradients: the numbers and the strides with which a backward pass begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import layouts
from attn_conformance.cases.carriers import split
from attn_conformance.cases.case import KernelCase
from attn_conformance.cases.forward import ForwardCase
from attn_conformance.cases.values import STORAGE

Array = NDArray[Any]
Shape = tuple[int, ...]


def _normal(rng: np.random.Generator, shape: Shape, dtype: str) -> Array:
    return rng.standard_normal(shape)


def _zeros(rng: np.random.Generator, shape: Shape, dtype: str) -> Array:
    return np.zeros(shape)


def _ones(rng: np.random.Generator, shape: Shape, dtype: str) -> Array:
    return np.ones(shape)


def _single(rng: np.random.Generator, shape: Shape, dtype: str) -> Array:
    one = np.zeros(shape)
    one[tuple(rng.integers(0, n) for n in shape)] = 1
    return one


def _large(rng: np.random.Generator, shape: Shape, dtype: str) -> Array:
    """As with a loss that is scaled up; products with values still fit float16."""
    return rng.standard_normal(shape) * (2.0**3 if dtype == "float16" else 2.0**20)


def _tiny(rng: np.random.Generator, shape: Shape, dtype: str) -> Array:
    """As of a mean over many elements; in float16 half of the bits are subnormal."""
    return rng.standard_normal(shape) * (2.0**-19 if dtype == "float16" else 2.0**-40)


FAMILIES: dict[str, Callable[[np.random.Generator, Shape, str], Array]] = {
    "normal": _normal,
    "zeros": _zeros,
    "ones": _ones,
    "single": _single,
    "large": _large,
    "tiny": _tiny,
}
"""Which numbers an output gradient holds, by name."""

EXPANDED: dict[str, tuple[int, ...] | None] = {
    "one number": None,
    "one batch element": (0,),
    "one token": (-2,),
    "one feature": (-1,),
}
"""Axes along which an output gradient has stride 0, by what it repeats; None: all, as after .sum()."""

LAYOUTS = ("contiguous", "transposed", "sliced", "inner", *EXPANDED)
"""Strides of output gradients; those that are not expanded are those of arguments (`layouts`)."""


@dataclass(frozen=True, eq=False)
class Upstream:
    """An output gradient. values: (B, H, T, Dv) or (B, T, n_state), in the storage dtype; layout: its strides."""

    values: Array
    layout: str = "contiguous"

    @property
    def exact(self) -> Array:
        """The values in float64."""
        return self.values.astype(np.float64)


def build_upstream(case: KernelCase | ForwardCase) -> Upstream:
    """The output gradient of a case; its layout is that of the result, which modules return with merged heads."""
    rng = np.random.default_rng((case.seed, 5))
    options = case.dout, case.dout_layout, case.dtype
    if isinstance(case, KernelCase) and case.window == "kernel":
        shape: Shape = (case.batch, case.heads, case.queries, case.value_size)
        return Upstream(draw(rng, shape, *options), case.dout_layout)
    width = case.n_state if isinstance(case, ForwardCase) else case.heads * case.value_size
    merged = draw(rng, (case.batch, case.queries, width), *options)
    values = split(merged, case.heads) if isinstance(case, KernelCase) else merged
    return Upstream(values, case.dout_layout)


def draw(rng: np.random.Generator, shape: Shape, family: str, layout: str, dtype: str) -> Array:
    """An output gradient in the storage dtype, C-contiguous, equal along the axes that its layout expands."""
    values = FAMILIES[family](rng, shape, dtype).astype(STORAGE[dtype])
    return np.array(np.broadcast_to(_kept(values, layout), shape)) if layout in EXPANDED else values


def arrange(array: Array, layout: str) -> Array:
    """Equal values with the strides of a layout."""
    if layout in EXPANDED:
        return np.broadcast_to(_kept(array, layout).copy(), array.shape)
    return layouts.arrange(array, layout, expandable=False)


def _kept(array: Array, layout: str) -> Array:
    """The part that is repeated."""
    axes = EXPANDED[layout]
    expanded = range(array.ndim) if axes is None else {n % array.ndim for n in axes}
    return array[tuple(slice(0, 1 if n in expanded else None) for n in range(array.ndim))]
