"""Drawing: the same cases with simpler numbers in them, so that a person can read the arrays that they become.

A case says how numbers are drawn, not which. While simpler draws are in force, normal numbers come from a short list;
sizes, masks, permutations and everything else are drawn as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LEVELS = ("halves", "tenths", "drawn")
"""What normal numbers are rounded to; drawn: as the case has them."""

ORDINARY = 20
"""Arrays with larger numbers are there for these."""

ROLLS = {"query.weight": 1, "key.weight": 1, "value.weight": 2}
"""By how many places simple weights move the features."""

PERIOD = 7
"""Length of the sequence: no common head size is a multiple of it."""


def pattern(start: int, count: int) -> Array:
    """Part of the sequence -1.5, 0, 1.5, -0.5, 1, -1, 0.5, -1.5, ..."""
    return np.arange(start, start + count) * 3 % PERIOD / 2 - 1.5


def simpler(arrays: list[tuple[str, Array]]) -> list[Array]:
    """Arrays of the same shapes and dtypes, by name: those of ordinary numbers filled from the sequence.

    Equal arrays stay equal. Square matrices become permutations of features, `out.weight` the identity. Masks, and
    arrays with one value throughout or with large numbers, stay as they are: these are there for a reason.
    """
    made: dict[Any, Array] = {}
    for name, array in arrays:
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in made:
            made[key] = _simpler(name, array, len(made))
    return [made[array.dtype.name, array.shape, array.tobytes()] for _, array in arrays]


def _simpler(name: str, array: Array, place: int) -> Array:
    values = array.astype(np.float64)
    if name in ("mask", "attn_mask", "bias") or not array.size or not np.all(np.abs(values) < ORDINARY):
        return array
    if np.all(values == values.flat[0]):
        return array
    if name.endswith(".weight"):
        n = array.shape[0]
        return np.roll(np.eye(n), ROLLS.get(name, 0), axis=1).astype(array.dtype)
    made = pattern(2 * place % PERIOD, array.size).reshape(array.shape)
    if array.shape[0] > 1 and np.all(values == values[:1]):
        made[:] = made[:1]
    return made.astype(array.dtype)


class _Rounded(np.random.Generator):
    """Draws normal numbers as multiples of a step, and wide uniform ones as integers."""

    steps = 1

    def standard_normal(self, size: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Multiples of 1 / steps."""
        return np.round(self.steps * np.asarray(super().standard_normal(size, *args, **kwargs))) / self.steps + 0.0

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Integers where there is one between the ends."""
        value = super().uniform(low, high, size)
        if size is not None or not low <= np.round(value) <= high:
            return value
        return float(np.round(value))


class _Halves(_Rounded):
    steps = 2


class _Tenths(_Rounded):
    steps = 10


@contextmanager
def drawing(level: str) -> Iterator[None]:
    """Generators made within draw as the level says. They are those of the whole process: nothing else may run."""
    kinds: dict[str, type[np.random.Generator]] = {"halves": _Halves, "tenths": _Tenths}
    if level not in kinds:
        yield
        return
    original: Callable[..., np.random.Generator] = np.random.default_rng

    def rounding(seed: Any = None) -> np.random.Generator:
        return kinds[level](original(seed).bit_generator)

    with mock.patch.object(np.random, "default_rng", rounding):
        yield
