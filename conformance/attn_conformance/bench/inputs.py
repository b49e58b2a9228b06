"""Inputs that are fresh in every call: windows at random places of one pool of random numbers, copied into buffers.

Nothing that was computed for earlier values or for the same addresses is right for a later call, and what a buffer held
is known afterwards without asking the implementation, which may have changed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_conformance.borders import Border
from attn_conformance.cases.values import STORAGE

Array = NDArray[Any]

PLACES = 2**16
"""Windows that a buffer is drawn among; with three buffers a call is hardly ever met twice."""

Drawn = Mapping[str, int]
"""Which window each buffer holds, by name."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Standard normal numbers in the storage dtype, as NumPy and as native array, and the shapes of the buffers."""

    values: Array
    native: Any
    shapes: Mapping[str, tuple[int, ...]]
    border: Border

    def draw(self, rng: np.random.Generator) -> Drawn:
        """A window for each buffer."""
        return dict(zip(self.shapes, rng.integers(PLACES, size=len(self.shapes)).tolist(), strict=True))

    def array(self, drawn: Drawn, name: str) -> Array:
        """What a buffer holds, as NumPy view."""
        shape, start = self.shapes[name], drawn[name]
        return self.values[start : start + prod(shape)].reshape(shape)

    def fill(self, buffers: dict[str, Any], drawn: Drawn) -> None:
        """Put their windows into the buffers; in JAX, whose arrays do not change, put others in their place."""
        for name in self.shapes.keys() & buffers.keys():
            start, shape = drawn[name], self.shapes[name]
            size = prod(shape)
            if self.border.name == "jax":
                jax: Any = getattr(self.border, "jax")  # noqa: B009  # of this border alone
                window = jax.lax.dynamic_slice(self.native, (start,), (size,))
                buffers[name] = jax.block_until_ready(window.reshape(shape))
            else:
                with self.border.grad_mode("off"):
                    buffers[name][...] = self.native[start : start + size].reshape(shape)


def pool(
    border: Border, device: str, shapes: Mapping[str, tuple[int, ...]], dtype: str, rng: np.random.Generator
) -> Pool:
    """The pool for buffers of these shapes."""
    size = max(map(prod, shapes.values())) + PLACES
    values = rng.standard_normal(size, np.float32).astype(STORAGE[dtype])
    return Pool(values, border.asarray(values, device), dict(shapes), border)
