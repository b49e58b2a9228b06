"""Lies about the softmax: its axis, its base, its peak and its denominator."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant, tiled
from attn_conformance.mutants.plain import (
    Array,
    attention,
    product,
    row_peak,
    seen_logits,
    softmax,
)


@mutant(
    "softmax-over-queries",
    requirement="EQ-3",
    bug_class="SOFTMAX",
    seen_in=(
        "https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146",
        "https://github.com/nerdai/llms-from-scratch-rs/pull/30",
    ),
    twin=attention,
)
def softmax_over_queries(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The weights of each key sum to 1 over the queries, where those of a query should over the keys."""
    logits = seen_logits(q, k, mask, is_causal)
    return product(softmax(logits.swapaxes(-1, -2)).swapaxes(-1, -2), v, q.dtype)


@mutant(
    "exp2-without-log2e",
    requirement="EQ-3",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/sgl-project/sglang/pull/35045",),
    twin=attention,
)
def exp2_without_log2e(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """2**x stands in for e**x, and nobody multiplied the logits by log2(e)."""
    return product(softmax(np.log(np.float32(2)) * seen_logits(q, k, mask, is_causal)), v, q.dtype)


@mutant(
    "epsilon-in-denominator",
    requirement="NUM-1",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/OpenNMT/CTranslate2/pull/1468",),
    twin=attention,
)
def epsilon_in_denominator(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """1e-3 is added to the sum of exponentials, to keep it from 0; a few keys in float32 show it best."""
    logits = seen_logits(q, k, mask, is_causal)
    grown = np.exp(logits - row_peak(logits))
    return product(grown / (grown.sum(-1, keepdims=True) + logits.dtype.type(1e-3)), v, q.dtype)


@mutant(
    "no-peak-subtraction",
    requirement="NUM-2",
    bug_class="SOFTMAX",
    seen_in=(
        "https://github.com/HabanaAI/vllm-fork/issues/275",
        "https://github.com/intel/xFasterTransformer/pull/326",
    ),
    twin=attention,
)
def no_peak_subtraction(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """No maximum is subtracted before exp: beyond logits of 88 (float32) it overflows."""
    logits = seen_logits(q, k, mask, is_causal)
    return product(softmax(logits, np.zeros((), logits.dtype)), v, q.dtype)


@mutant(
    "peak-never-below-zero",
    requirement="NUM-3",
    bug_class="SOFTMAX",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/196678",
        "https://github.com/chiendb97/oasr/pull/101",
    ),
    twin=attention,
)
def peak_never_below_zero(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The running maximum starts at 0: a row of logits below -104 comes out as zeros."""
    logits = seen_logits(q, k, mask, is_causal)
    return product(softmax(logits, np.maximum(row_peak(logits), 0)), v, q.dtype)


@mutant(
    "peak-never-below-minus-5e4",
    requirement="NUM-3",
    bug_class="FILL",
    seen_in=(
        "https://github.com/flashinfer-ai/flashinfer/issues/4267",
        "https://github.com/flashinfer-ai/flashinfer/pull/4401",
    ),
    twin=attention,
)
def peak_never_below_minus_5e4(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The running maximum starts at -50000: a row of logits below that comes out as zeros."""
    logits = seen_logits(q, k, mask, is_causal)
    return product(softmax(logits, np.maximum(row_peak(logits), -5e4)), v, q.dtype)


@mutant(
    "peak-of-the-first-key",
    requirement="NUM-3",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/HabanaAI/vllm-fork/issues/275",),
    twin=attention,
)
def peak_of_the_first_key(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The logit of the first visible key stands in for the maximum: a rise by more than 88 overflows exp."""
    logits = seen_logits(q, k, mask, is_causal)
    if not k.shape[2]:
        return attention(q, k, v, mask, is_causal)
    first = (~np.isneginf(logits)).argmax(-1)[..., None]
    peak = np.take_along_axis(logits, first, -1)
    return product(softmax(logits, np.where(np.isneginf(peak), 0, peak)), v, q.dtype)


@mutant(
    "no-rescale-when-the-peak-rises",
    requirement="NUM-3",
    least={"S": 40},
    bug_class="SOFTMAX",
    seen_in=("https://github.com/Dao-AILab/flash-attention/pull/2174",),
    twin=tiled.attention,
)
def no_rescale_when_the_peak_rises(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """What earlier tiles of 32 keys added is not scaled down when a later tile has a larger maximum."""
    return tiled.accumulate(seen_logits(q, k, mask, is_causal), v, rescaled=False).astype(q.dtype)


@mutant(
    "peak-over-all-heads",
    requirement="NUM-3",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/HabanaAI/vllm-fork/issues/275",),
    twin=attention,
)
def peak_over_all_heads(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """One maximum serves all heads: a head whose logits lie 104 below another's comes out as zeros."""
    logits = seen_logits(q, k, mask, is_causal)
    return product(softmax(logits, row_peak(logits).max(1, keepdims=True)), v, q.dtype)
