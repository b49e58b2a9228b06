"""The plain kernel, right in every respect: attention in steps, so that a mutant can lie in one of them.

Everything is computed in float32 (float64 for float64). Arrays: q (B, H, T, D), k (B, Hkv, S, D),
v (B, Hkv, S, Dv); logits and weights (B, H, T, S).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from attn_conformance.mutants import quiet

Array = NDArray[Any]
NEVER = -np.inf
"""The logit of a forbidden key."""

BLOCK = 64
"""Queries at a time: with T = S = 4096 a few blocks of scores are far below a quarter of all scores."""

LOWER: dict[str, Any] = {
    "float64": np.float32,
    "float32": np.float16,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}
"""A dtype too small to accumulate in, for each dtype of q."""


@quiet
def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Array:
    """Softmax attention. Boolean masks: True = may attend; floating ones are added; causal: bottom-right."""
    logits = hide_future(masked(scores(q, k, scale), mask), is_causal)
    return product(softmax(logits), v, q.dtype)


def attention_in_blocks(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The same, a block of queries at a time, so that no (T, S) buffer is held."""
    T, S = q.shape[2], k.shape[2]
    if T <= BLOCK:
        return attention(q, k, v, mask, is_causal)
    blocks = []
    for first in range(0, T, BLOCK):
        last = min(first + BLOCK, T)
        rows = mask if mask is None or mask.shape[-2] == 1 else mask[..., first:last, :]
        # Bottom-right, as for the last queries of fewer keys.
        seen = max(0, last + S - T) if is_causal else S
        blocks.append(attention(q[:, :, first:last], k[:, :, :seen], v[:, :, :seen], rows, is_causal))
    return np.concatenate(blocks, 2)


def scores(q: Array, k: Array, scale: float | None = None) -> Array:
    """Scaled q k^T; scale is 1/sqrt(D) unless given."""
    factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
    return factor * (widen(q) @ spread(widen(k), q.shape[1]).swapaxes(-1, -2))


def masked(logits: Array, mask: Array | None) -> Array:
    """Logits with the mask applied."""
    if mask is None:
        return logits
    if is_bool(mask):
        return np.where(mask, logits, NEVER)
    bias = mask.astype(logits.dtype)
    return np.where(np.isneginf(bias), NEVER, logits + bias)


def hide_future(logits: Array, is_causal: bool) -> Array:
    """Logits with the causal rule applied, if asked for."""
    return np.where(triangle(*logits.shape[-2:]), logits, NEVER) if is_causal else logits


def seen_logits(q: Array, k: Array, mask: Array | None, is_causal: bool) -> Array:
    """Scores under the mask and the causal rule, -inf where a key is hidden."""
    return hide_future(masked(scores(q, k), mask), is_causal)


def triangle(T: int, S: int, diagonal: int | None = None) -> Array:
    """(T, S), True where key j <= query i + diagonal; S - T unless given, so that the last query sees all."""
    return np.arange(S) <= np.arange(T)[:, None] + (S - T if diagonal is None else diagonal)


def softmax(logits: Array, peak: Array | None = None) -> Array:
    """Weights over keys, zero in rows without a visible key; peak: what is subtracted before exp."""
    grown = np.exp(logits - (row_peak(logits) if peak is None else peak))
    total = grown.sum(-1, keepdims=True)
    return np.asarray(grown / np.where(total == 0, 1, total))


def row_peak(logits: Array) -> Array:
    """The largest logit of each row, (B, H, T, 1); 0 in rows without a visible key."""
    peak = logits.max(-1, keepdims=True, initial=NEVER)
    return np.where(np.isneginf(peak), 0, peak)


def product(weights: Array, v: Array, dtype: Any) -> Array:
    """Weights times values, rounded once to dtype."""
    return (weights @ spread(widen(v), weights.shape[1])).astype(dtype)


def widen(x: Array) -> Array:
    """A copy of x in float32, or float64 if it is float64."""
    return x.astype(np.float64 if x.dtype == np.float64 else np.float32)


def spread(x: Array, heads: int) -> Array:
    """Key heads repeated for their groups: query heads g*n .. g*n + g - 1 read key head n."""
    return x if x.shape[1] == heads else np.repeat(x, heads // x.shape[1], axis=1)


def is_bool(mask: Array | None) -> bool:
    """Whether the mask is a boolean one."""
    return mask is not None and mask.dtype == np.bool_


def is_float(mask: Array | None) -> bool:
    """Whether the mask is a floating one (bfloat16 is no np.floating)."""
    return mask is not None and (mask.dtype.kind == "f" or mask.dtype.name == "bfloat16")


def visible(q: Array, k: Array, mask: Array | None, is_causal: bool) -> Array:
    """(B, H, T, S), True where a key may be attended to."""
    shape = (*q.shape[:3], k.shape[2])
    return ~np.isneginf(hide_future(masked(np.zeros(shape), mask), is_causal))
