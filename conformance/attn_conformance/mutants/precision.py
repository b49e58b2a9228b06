"""Lies about precision: what is computed or stored in too few bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from attn_conformance.mutants import mutant
from attn_conformance.mutants.plain import (
    LOWER,
    Array,
    attention,
    hide_future,
    is_bool,
    masked,
    product,
    scores,
    seen_logits,
    softmax,
    spread,
    widen,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@mutant(
    "scores-in-half-before-scaling",
    requirement="NUM-2",
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/pull/165961",),
    twin=attention,
    dtypes=("float16",),
)
def scores_in_half_before_scaling(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """float16 inputs: q k^T is kept in float16 and scaled there, and overflows beyond 65504."""
    logits = widen(scores(q, k, 1.0).astype(q.dtype)) * np.float32(q.shape[3] ** -0.5)
    return product(softmax(hide_future(masked(logits, mask), is_causal)), v, q.dtype)


@mutant(
    "weights-in-half-unnormalised",
    requirement="NUM-2",
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/pull/128922",),
    twin=attention,
    dtypes=("float16", "bfloat16"),
)
def weights_in_half_unnormalised(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """No maximum is subtracted and exp is kept in the low dtype: float16 overflows from a logit of 11 on."""
    grown = widen(np.exp(seen_logits(q, k, mask, is_causal)).astype(q.dtype))
    total = grown.sum(-1, keepdims=True)
    return product(grown / np.where(total == 0, 1, total), v, q.dtype)


@mutant(
    "weights-in-bfloat16",
    requirement="NUM-1",
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/issues/179578",),
    twin=attention,
)
def weights_in_bfloat16(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Weights are rounded to bfloat16 before they meet the values, whatever the dtype of the inputs."""
    weights = softmax(seen_logits(q, k, mask, is_causal))
    return product(weights.astype(BFLOAT16).astype(weights.dtype), v, q.dtype)


def _dot(a: Array, b: Array, low: Any, step: int = 16) -> Array:
    """A @ b, the running sum rounded to `low` after every 16 products."""
    total: Any = np.zeros((*a.shape[:-1], b.shape[-1]), a.dtype)
    for first in range(0, a.shape[-1], step):
        total = total + a[..., first : first + step] @ b[..., first : first + step, :]
        total = total.astype(low).astype(a.dtype)
    return np.asarray(total)


@mutant(
    "scores-accumulated-low",
    requirement="NUM-1",
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/pull/130704",),
    twin=attention,
)
def scores_accumulated_low(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The sum q k^T is kept in a dtype too small for it: float16 for float32, float32 for float64."""
    scaled = q.shape[3] ** -0.5 * widen(q)
    logits = _dot(scaled, spread(widen(k), q.shape[1]).swapaxes(-1, -2), LOWER[q.dtype.name])
    return product(softmax(hide_future(masked(logits, mask), is_causal)), v, q.dtype)


@mutant(
    "values-accumulated-low",
    requirement="NUM-1",
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/pull/128922",),
    twin=attention,
)
def values_accumulated_low(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The sum of weighted values is kept in a dtype too small for it: float16 for float32."""
    weights = softmax(seen_logits(q, k, mask, is_causal))
    return _dot(weights, spread(widen(v), q.shape[1]), LOWER[q.dtype.name]).astype(q.dtype)


@mutant(
    "float64-computed-in-float32",
    requirement="NUM-1",
    bug_class="PREC",
    seen_in=("https://github.com/pytorch/pytorch/issues/141756",),
    twin=attention,
)
def float64_computed_in_float32(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Everything is computed in float32, for float64 inputs too."""
    if q.dtype != np.float64:
        return attention(q, k, v, mask, is_causal)
    narrow = mask.astype(np.float32) if mask is not None and not is_bool(mask) else mask
    q32, k32, v32 = (x.astype(np.float32) for x in (q, k, v))
    return attention(q32, k32, v32, narrow, is_causal).astype(np.float64)


@mutant(
    "output-cast-truncates",
    requirement="NUM-1",
    bug_class="PREC",
    seen_in=(
        "https://github.com/ROCm/aiter/issues/5151",
        "https://github.com/mmastrac/diffgemma/pull/18",
    ),
    twin=attention,
    dtypes=("float16", "bfloat16"),
)
def output_cast_truncates(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result is cut to the low dtype, not rounded: up to a whole last place off, always towards 0."""
    exact = product(softmax(seen_logits(q, k, mask, is_causal)), v, np.float32)
    rounded = exact.astype(q.dtype)
    towards_zero = np.nextafter(rounded, np.zeros((), q.dtype))
    return np.where(np.abs(widen(rounded)) > np.abs(exact), towards_zero, rounded)
