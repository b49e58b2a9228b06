"""Simpler: other numbers in the arrays of a recording, so that a person can read the script."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

VARIANTS = ("quarters", "thirds", "one digit", "two digits", "as recorded")
"""quarters, thirds: a short sequence that repeats, and weights that move every feature to another place; quarters are
exact in every dtype, thirds in none. Digits: how many each number is rounded to."""

ORDINARY = 20
"""Arrays with larger numbers are there for these: they are rounded where others are filled from the sequence."""

MASKS = ("mask", "attn_mask", "bias")
"""Names of masks: of large numbers in them, differences may matter that rounding loses."""

PERIOD = 11
"""Length of the sequence: few head sizes are a multiple of it."""

ROLLS = {"query.weight": 1, "key.weight": 1, "value.weight": 2, "out.weight": 3}
"""By how many places patterned weights move the features; further weights of the same name by one more each."""


def pattern(start: int, count: int, divisor: int) -> Array:
    """Part of the sequence -5, -2, 1, 4, -4, -1, 2, 5, -3, 0, 3, -5, ..., divided."""
    return (np.arange(start, start + count) * 3 % PERIOD - PERIOD // 2) / divisor


def simpler(arrays: list[tuple[str, Array]], variant: str) -> list[Array]:
    """Arrays of the same names, shapes and dtypes with simpler numbers; equal ones stay equal.

    Booleans stay as they are, and so do arrays with one value throughout. In the sequence's place, arrays with large
    numbers, or with one value in each row, are rounded.
    """
    made: dict[Any, Array] = {}
    seen: dict[str, int] = defaultdict(int)
    result = []
    for name, array in arrays:
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in made:
            plain = not array.size or array.dtype == np.bool_ or variant == VARIANTS[-1]
            made[key] = array if plain else _simpler(name, array, variant, len(made), seen[name])
            seen[name] += 1
        result.append(made[key])
    return result


def _simpler(name: str, array: Array, variant: str, place: int, earlier: int) -> Array:
    values = array.astype(np.float64)
    if variant in ("one digit", "two digits"):
        return _rounded(values, 1 if variant == "one digit" else 2).astype(array.dtype)
    constant = values.size > 1 or not values.any()
    if constant and np.all(values == values.flat[0]):
        return array
    by_rows = values.ndim > 1 and np.all(values == values[..., :1])
    if not np.all(np.abs(values) < ORDINARY) or by_rows:
        kept = variant == "quarters" and name in MASKS
        return array if kept else _rounded(values, 1).astype(array.dtype)
    if name.endswith(".weight"):
        return np.roll(np.eye(array.shape[0]), ROLLS[name] + earlier, axis=1).astype(array.dtype)
    start = earlier if name.endswith(".bias") else 2 * place
    made = pattern(start % PERIOD, array.size, 4 if variant == "quarters" else 3).reshape(array.shape)
    if array.shape[0] > 1 and np.all(values == values[:1]):
        made[:] = made[:1]
    return made.astype(array.dtype)


def _rounded(values: Array, digits: int) -> Array:
    rounded = [float(f"{value:.{digits}g}") for value in values.reshape(-1).tolist()]
    return np.array(rounded).reshape(values.shape)
