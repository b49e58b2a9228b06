"""Simpler: other numbers in the arrays of a recording, so that a person can read the script."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

VARIANTS = ("patterned", "one digit", "two digits", "as recorded")
"""patterned: a short sequence that repeats, and weights that move every feature to another place. Digits: how many
each number is rounded to."""

ORDINARY = 20
"""Arrays with larger numbers are there for these: no pattern takes their place."""

PERIOD = 7
"""Length of the sequence: few head sizes are a multiple of it."""

ROLLS = {"query.weight": 1, "key.weight": 1, "value.weight": 2, "out.weight": 3}
"""By how many places patterned weights move the features; further weights of the same name by one more each."""


def pattern(start: int, count: int) -> Array:
    """Part of the sequence -1.5, 0, 1.5, -0.5, 1, -1, 0.5, -1.5, ..."""
    return (np.arange(start, start + count) * 3 % PERIOD - 3) / 2


def simpler(arrays: list[tuple[str, Array]], variant: str) -> list[Array]:
    """Arrays of the same names, shapes and dtypes with simpler numbers; equal ones stay equal.

    Booleans stay as they are, and so does in a pattern's place whatever is there for its values: masks, arrays with
    one value throughout, and those with large numbers.
    """
    made: dict[Any, Array] = {}
    seen: dict[str, int] = defaultdict(int)
    result = []
    for name, array in arrays:
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in made:
            made[key] = array
            if array.size and array.dtype != np.bool_ and variant != VARIANTS[-1]:
                digits = {"one digit": 1, "two digits": 2}.get(variant)
                made[key] = (
                    _rounded(array, digits) if digits else _patterned(name, array, len(made), seen[name])
                )
                seen[name] += 1
        result.append(made[key])
    return result


def _rounded(array: Array, digits: int) -> Array:
    values = [float(f"{value:.{digits}g}") for value in array.astype(np.float64).reshape(-1).tolist()]
    return np.array(values).reshape(array.shape).astype(array.dtype)


def _patterned(name: str, array: Array, place: int, earlier: int) -> Array:
    values = array.astype(np.float64)
    special = not np.all(np.abs(values) < ORDINARY) or np.all(values == values.flat[0])
    if special or name in ("mask", "attn_mask", "bias"):
        return array
    if name.endswith(".weight"):
        return np.roll(np.eye(array.shape[0]), ROLLS[name] + earlier, axis=1).astype(array.dtype)
    made = pattern(2 * place % PERIOD, array.size).reshape(array.shape)
    if array.shape[0] > 1 and np.all(values == values[:1]):
        made[:] = made[:1]
    return made.astype(array.dtype)
