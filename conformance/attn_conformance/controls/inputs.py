"""The arguments of a call in the dtype of the computation; mask and causal rule become visibility and bias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a control computes with.

    q: (B, H, T, D); k: (B, Hkv, S, D); v: (B, Hkv, S, Dv). visible: (B, H, T, S), boolean. bias: broadcasts to
    that, 0 where nothing is visible. storage: the dtype that the caller's arrays had.
    """

    q: Array
    k: Array
    v: Array
    visible: Array
    bias: Array
    scale: float
    storage: np.dtype[Any]

    @property
    def keys(self) -> Array:
        """K with a head for each query head, (B, H, S, D)."""
        return np.repeat(self.k, self.q.shape[1] // self.k.shape[1], axis=1)

    @property
    def values(self) -> Array:
        """V with a head for each query head, (B, H, S, Dv)."""
        return np.repeat(self.v, self.q.shape[1] // self.v.shape[1], axis=1)

    def logits(self) -> Array:
        """Scaled scores plus bias, -inf where nothing is visible, (B, H, T, S)."""
        return self.hide(self.scale * (self.q @ self.keys.swapaxes(-1, -2)))

    def hide(self, scores: Array) -> Array:
        """Scores plus bias, -inf where nothing is visible."""
        return np.where(self.visible, scores + self.bias, -np.inf)

    def stored(self, x: Array) -> Array:
        """X rounded to float16 or bfloat16 if the caller's arrays were that, as a kernel's weights are."""
        return x.astype(self.storage).astype(x.dtype) if self.storage.itemsize == 2 else x

    def to(self, dtype: Any) -> Inputs:
        """The same inputs in another dtype of computation."""
        q, k, v, bias = (x.astype(dtype) for x in (self.q, self.k, self.v, self.bias))
        return replace(self, q=q, k=k, v=v, bias=bias)

    def nothing(self, *, lse: bool = False) -> Any:
        """The result where there are no keys: zeros, and -inf for the log-sum-exp."""
        B, H, T, _ = self.q.shape
        out = np.zeros((B, H, T, self.v.shape[3]), self.q.dtype)
        return (out, np.full((B, H, T), -np.inf, out.dtype)) if lse else out


def prepare(q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool, scale: float | None) -> Inputs:
    """The inputs of a call, computed with in float32, or float64 for float64."""
    wide = np.float64 if q.dtype == np.float64 else np.float32
    B, H, T, D = q.shape
    S = k.shape[2]
    visible = np.ones((1, 1, 1, 1), np.bool_)
    bias = np.zeros((1, 1, 1, 1), wide)
    if mask is not None and mask.dtype == np.bool_:
        visible = mask
    elif mask is not None:
        bias = mask.astype(wide)
        visible = ~np.isneginf(bias)
        bias = np.where(visible, bias, 0)
    if is_causal:
        visible = visible & np.tri(T, S, S - T, dtype=np.bool_)
    return Inputs(
        q=q.astype(wide, order="C"),
        k=k.astype(wide, order="C"),
        v=v.astype(wide, order="C"),
        visible=np.broadcast_to(visible, (B, H, T, S)),
        bias=bias,
        scale=1 / float(np.sqrt(D)) if scale is None else float(scale),
        storage=q.dtype,
    )


def peak_of(logits: Array) -> Array:
    """The largest of each row, with 0 in place of -inf, the last axis kept."""
    peak = logits.max(-1, keepdims=True)
    return np.where(np.isneginf(peak), 0, peak)


def share(part: Array, total: Array) -> Array:
    """The quotient, 0 where the total is 0: rows that see nothing."""
    return np.asarray(part / np.where(total == 0, 1, total))
