"""Lies about precision: what is computed or stored in too few bits."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from attn_conformance.mutants import mutant, quiet
from attn_conformance.mutants.plain import (
    LOWER,
    Array,
    attention,
    hide_future,
    is_bool,
    masked,
    product,
    row_peak,
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
    least={"S": 2048},
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
    least={"B": 3, "H": 3, "S": 1024},
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
    return cut(product(softmax(seen_logits(q, k, mask, is_causal)), v, np.float32), q.dtype)


def cut(x: Array, dtype: Any) -> Array:
    """X in a shorter dtype, not rounded to nearest but towards 0."""
    rounded = x.astype(dtype)
    beyond = np.abs(widen(rounded)) > np.abs(x)
    return np.where(beyond, np.nextafter(rounded, np.zeros((), dtype)), rounded)


# --- systematic bias, which no single element shows


@quiet
def rounded_weights(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    is_causal: bool = False,
    *,
    round_weights: Any = np.ndarray.astype,
    reciprocal: Any = np.reciprocal,
) -> Array:
    """Right: weights are rounded to the dtype of q before they meet the values, as flash kernels do it.

    round_weights: a function of weights and a dtype. reciprocal: of their sum. All but the defaults are lies.
    """
    logits = seen_logits(q, k, mask, is_causal)
    grown = np.exp(logits - row_peak(logits))
    total = grown.sum(-1, keepdims=True)
    mixed = widen(round_weights(grown, q.dtype)) @ spread(widen(v), q.shape[1])
    return np.asarray(mixed * np.where(total == 0, 0, reciprocal(total))).astype(q.dtype)


@mutant(
    "weights-cast-truncates",
    requirement="NUM-5",
    least={"B": 32, "T": 16, "S": 16},
    bug_class="PREC",
    seen_in=(
        "https://github.com/ROCm/flash-attention/pull/78",
        "https://github.com/PaddlePaddle/Paddle/pull/68689",
    ),
    twin=rounded_weights,
    dtypes=("float16", "bfloat16"),
)
def weights_cast_truncates(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Weights are cut to the low dtype, their sum is that of the exact ones: outputs come out 0.2 % too small."""
    return rounded_weights(q, k, v, mask, is_causal, round_weights=cut)


@mutant(
    "reciprocal-of-eleven-bits",
    requirement="NUM-5",
    least={"B": 32, "T": 16, "S": 16},
    bug_class="PREC",
    seen_in=(
        "https://github.com/tenstorrent/tt-llk/issues/1406",
        "https://github.com/tenstorrent/tt-llk/pull/1131",
    ),
    twin=rounded_weights,
    dtypes=("bfloat16",),
)
def reciprocal_of_eleven_bits(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The sum of the weights is inverted to 11 bits, cut, without a Newton step: outputs come out 0.04 % too small."""
    return rounded_weights(q, k, v, mask, is_causal, reciprocal=lambda x: widen(cut(1 / x, np.float16)))


@mutant(
    "scale-held-in-bfloat16",
    requirement="NUM-5",
    least={"B": 32, "T": 16, "S": 16},
    bug_class="SCALE",
    seen_in=("https://github.com/tenstorrent/tt-metal/pull/53217",),
    twin=attention,
    dtypes=("bfloat16",),
)
def scale_held_in_bfloat16(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """1/sqrt(D) is rounded to bfloat16: for D = 7 scores come out 0.25 % too large, for D = 64 they are right."""
    scale = float(np.array(q.shape[3] ** -0.5).astype(q.dtype))
    return product(softmax(hide_future(masked(scores(q, k, scale), mask), is_causal)), v, q.dtype)
