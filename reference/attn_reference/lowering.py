"""The conventions of a kernel call, resolved once: masks, causality, scale and dtype become a Problem."""

from __future__ import annotations

import math

import numpy as np

from .problem import Array, Problem


def lower(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Problem:
    """The dense problem that the call `attention(q, k, v, mask, is_causal, scale)` poses.

    q: (B, H, T, D); k: (B, Hkv, S, D); v: (B, Hkv, S, Dv); in float64, float32, float16 or bfloat16, all
    of which float64 holds exactly. mask: (T, S) or 4-D with each of B, H, T full or 1; boolean, True = may
    attend (MASK-1), or floating, added to the scaled scores, where -inf forbids (MASK-2). The arrays are
    copied. Nothing is checked here: `check_kernel_call` does that.
    """
    T, D = q.shape[2:]
    S = k.shape[2]
    visible = np.ones((1, 1, 1, 1), bool)
    bias = np.zeros((1, 1, 1, 1))
    if mask is not None:
        plane = mask[None, None] if mask.ndim == 2 else mask
        if plane.dtype == bool:
            visible = plane.copy()
        else:
            bias = plane.astype(np.float64)
            visible = bias != -np.inf
            bias[~visible] = 0.0
    if is_causal:
        i, j = np.arange(T)[:, None], np.arange(S)
        visible = visible & (j <= i + (S - T))  # CAUSAL-3: the last query sees every key
    if scale is None:
        scale = 1 / math.sqrt(D) if D else 1.0  # without head size every score is 0, whatever the scale
    q, k, v = (np.array(x, np.float64, order="C") for x in (q, k, v))
    return Problem(q, k, v, visible, bias, float(scale))
