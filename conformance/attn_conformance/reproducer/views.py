"""Views: the strides of arrays that are handed over, and NumPy expressions that give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.cases import layouts, masks

Array = NDArray[Any]

ENLARGED = "enlarged"
"""A mask that is a view of a larger one, as `cases.masks` makes them."""


def layout_of(native: Any, values: Array) -> str:
    """Which of `cases.layouts.LAYOUTS`, or ENLARGED, has the strides of a native array; "contiguous" if none has."""
    if isinstance(native, np.ndarray):
        strides = tuple(n // native.itemsize for n in native.strides)
    elif hasattr(native, "stride"):
        strides = tuple(native.stride())
    else:
        return "contiguous"
    for layout in (*layouts.LAYOUTS, ENLARGED):
        if layout != "contiguous" and values.ndim < 2:
            break
        if layout == "transposed" and values.ndim < 3:
            continue
        view = arranged(values, layout)
        same = zip(strides, view.strides, values.shape, strict=True)
        if all(mine == other // values.itemsize or n < 2 for mine, other, n in same):
            return layout
    return "contiguous"


def arranged(values: Array, layout: str) -> Array:
    """Equal values with the strides of a layout, "expanded" where batch elements are equal."""
    if layout == ENLARGED:
        return masks.inside_larger(values)
    if layout == "expanded" and values.size and (values != values[:1]).any():
        return values
    return layouts.arrange(values, layout, expandable=True)


def viewed(name: str, layout: str, values: Array) -> str:
    """An expression with the values of the contiguous array `name`, and the strides of a layout."""
    ndim = values.ndim
    other = 7 if values.dtype != np.bool_ else bool(values.mean() < 0.5)
    if layout == "transposed":
        axes = "1, 2" if ndim == 4 else "0, 1"
        return f"{name}.swapaxes({axes}).copy().swapaxes({axes})"
    if layout == "sliced":
        return f"np.pad({name}, 1, constant_values=7)[{', '.join(['1:-1'] * ndim)}]"
    if layout == ENLARGED:
        return f"np.pad({name}, (1, 2), constant_values={other})[{', '.join(['1:-2'] * ndim)}]"
    if layout == "inner":
        return f"{name}.repeat(2, axis={ndim - 1})[..., ::2]"
    if layout == "expanded":
        return f"np.lib.stride_tricks.as_strided({name}, strides=(0, *{name}.strides[1:]))"
    if layout == "reversed":
        return f"{name}[..., ::-1, :].copy()[..., ::-1, :]"
    return name
