"""The dense attention problem that every call of every implementation is lowered to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Problem:
    """Softmax attention with all conventions resolved; arrays are float64 and hold the inputs exactly.

    q: (B, H, T, D); k: (B, Hkv, S, D); v: (B, Hkv, S, Dv); H = g * Hkv, query heads g*n .. g*n + g - 1 read
    key head n. visible: boolean, 4-D, each axis of (B, H, T, S) full or 1. bias: float64, shaped likewise,
    finite, added to the scaled scores. scale: factor on q k^T. A row without a visible key yields zeros.
    """

    q: Array
    k: Array
    v: Array
    visible: Array
    bias: Array
    scale: float

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, H, T, S)."""
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    def take_rows(self, rows: Any) -> Problem:
        """The same problem for the query rows `rows` (1-D integer array) alone; they do not interact."""
        index = np.asarray(rows)

        def cut(plane: Array) -> Array:
            return plane if plane.shape[2] == 1 else plane[:, :, index]

        return replace(self, q=self.q[:, :, index], visible=cut(self.visible), bias=cut(self.bias))
