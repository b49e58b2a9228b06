"""Lies about numbers: the softmax, precision, logits far from 0, neighbours, NaN, randomness."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from attn_conformance.mutants import mutant, tiled
from attn_conformance.mutants.plain import (
    NEVER,
    Array,
    attention,
    hide_future,
    is_bool,
    masked,
    product,
    row_peak,
    scores,
    softmax,
    spread,
    widen,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)

LOWER = {"float64": np.dtype(np.float32), "float32": FLOAT16, "float16": FLOAT16, "bfloat16": BFLOAT16}
"""A dtype too small to accumulate in, for each dtype of q."""


def _logits(q: Array, k: Array, mask: Array | None, is_causal: bool) -> Array:
    return hide_future(masked(scores(q, k), mask), is_causal)


# --- the softmax itself


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
    logits = _logits(q, k, mask, is_causal)
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
    return product(softmax(np.log(np.float32(2)) * _logits(q, k, mask, is_causal)), v, q.dtype)


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
    logits = _logits(q, k, mask, is_causal)
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
    logits = _logits(q, k, mask, is_causal)
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
    logits = _logits(q, k, mask, is_causal)
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
    logits = _logits(q, k, mask, is_causal)
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
    logits = _logits(q, k, mask, is_causal)
    if not k.shape[2]:
        return attention(q, k, v, mask, is_causal)
    first = (~np.isneginf(logits)).argmax(-1)[..., None]
    peak = np.take_along_axis(logits, first, -1)
    return product(softmax(logits, np.where(np.isneginf(peak), 0, peak)), v, q.dtype)


@mutant(
    "no-rescale-when-the-peak-rises",
    requirement="NUM-3",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/Dao-AILab/flash-attention/pull/2174",),
    twin=tiled.attention,
)
def no_rescale_when_the_peak_rises(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """What earlier tiles of 32 keys added is not scaled down when a later tile has a larger maximum."""
    return tiled.accumulate(_logits(q, k, mask, is_causal), v, rescaled=False).astype(q.dtype)


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
    logits = _logits(q, k, mask, is_causal)
    return product(softmax(logits, row_peak(logits).max(1, keepdims=True)), v, q.dtype)


# --- precision


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
    grown = widen(np.exp(_logits(q, k, mask, is_causal)).astype(q.dtype))
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
    weights = softmax(_logits(q, k, mask, is_causal))
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
    weights = softmax(_logits(q, k, mask, is_causal))
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
    exact = product(softmax(_logits(q, k, mask, is_causal)), v, np.float32)
    rounded = exact.astype(q.dtype)
    towards_zero = np.nextafter(rounded, np.zeros((), q.dtype))
    return np.where(np.abs(widen(rounded)) > np.abs(exact), towards_zero, rounded)


# --- neighbours


@mutant(
    "peak-over-whole-batch",
    requirement="PURE-3",
    bug_class="BATCH",
    seen_in=(
        "https://github.com/fla-org/flash-linear-attention/issues/671",
        "https://github.com/Dao-AILab/flash-attention/pull/1365",
    ),
    twin=attention,
)
def peak_over_whole_batch(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """One maximum serves the whole batch: logits more than 104 below a neighbour's come out as zeros."""
    logits = _logits(q, k, mask, is_causal)
    return product(softmax(logits, row_peak(logits).max(0, keepdims=True, initial=NEVER)), v, q.dtype)


@mutant(
    "last-of-odd-batch-reads-its-neighbour",
    requirement="PURE-3",
    bug_class="BATCH",
    seen_in=(
        "https://github.com/ggml-org/llama.cpp/issues/7903",
        "https://github.com/huggingface/transformers/issues/32848",
    ),
    twin=attention,
)
def last_of_odd_batch_reads_its_neighbour(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Elements are served in pairs, and the last of an odd number reads its neighbour's keys (B >= 3)."""
    source = np.arange(k.shape[0])
    if k.shape[0] >= 3 and k.shape[0] % 2:
        source[-1] -= 1
    return attention(q, k[source], v, mask, is_causal)


@mutant(
    "keys-trimmed-to-the-first-element",
    requirement="PURE-3",
    bug_class="BATCH",
    seen_in=(
        "https://github.com/Blaizzy/mlx-vlm/pull/1946",
        "https://github.com/TransformerLensOrg/TransformerLens/issues/1005",
    ),
    twin=attention,
)
def keys_trimmed_to_the_first_element(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Keys beyond the last one visible to batch element 0 are cut off for all: shows if it is shortest."""
    if mask is None or not is_bool(mask) or mask.ndim != 4 or mask.shape[0] == 1:
        return attention(q, k, v, mask, is_causal)
    used = np.flatnonzero(mask[0].any((0, 1)))
    length = used[-1] + 1 if used.size else k.shape[2]
    padding = np.arange(k.shape[2]) >= length
    return attention(q, k, v, mask & ~padding, is_causal)


@mutant(
    "first-key-counted-twice",
    requirement="PURE-4",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/ml-explore/mlx/issues/3452",),
    twin=attention,
)
def first_key_counted_twice(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The first key has twice its weight, as if it were a sink."""
    logits = _logits(q, k, mask, is_causal)
    logits[..., :1] += np.log(logits.dtype.type(2))
    return product(softmax(logits), v, q.dtype)


@mutant(
    "distance-bias-left-on",
    requirement="PURE-4",
    bug_class="ORDER",
    seen_in=(
        "https://github.com/vllm-project/vllm/pull/945",
        "https://github.com/meta-pytorch/attention-gym/pull/86",
    ),
    twin=attention,
)
def distance_bias_left_on(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A slope by head and key position is added that nobody asked for: keys and heads are no longer equal."""
    H, S = q.shape[1], k.shape[2]
    slopes = 2.0 ** -(8 * (np.arange(H) + 1) / H)
    bias = (slopes[:, None, None] * (np.arange(S) - S + 1)).astype(widen(q).dtype)
    return product(softmax(_logits(q, k, mask, is_causal) + bias), v, q.dtype)


@mutant(
    "zero-keys-read-as-padding",
    requirement="EQ-3",
    bug_class="BATCH",
    seen_in=(
        "https://github.com/Kyubyong/transformer/pull/69",
        "https://github.com/google/trax/issues/820",
    ),
    twin=attention,
)
def zero_keys_read_as_padding(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A key whose features are all zero is taken for padding and hidden: shows if there is such a key."""
    padding = (widen(k) == 0).all(-1)[:, :, None, :]
    logits = np.where(spread(padding, q.shape[1]), NEVER, _logits(q, k, mask, is_causal))
    return product(softmax(logits), v, q.dtype)


# --- NaN


@mutant(
    "nan-becomes-zero",
    requirement="NUM-4",
    bug_class="NANIN",
    seen_in=("https://github.com/pytorch/pytorch/issues/141128",),
    twin=attention,
)
def nan_becomes_zero(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """NaN in the result is replaced by 0, which hides the fault in the inputs."""
    out = attention(q, k, v, mask, is_causal)
    return np.where(np.isnan(out), np.zeros((), out.dtype), out)


@mutant(
    "nan-scores-give-zeros",
    requirement="NUM-4",
    bug_class="NANIN",
    seen_in=("https://github.com/pytorch/pytorch/issues/141128",),
    twin=attention,
)
def nan_scores_give_zeros(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The guard for empty rows asks `total > 0`, which NaN fails too: NaN in q or k gives rows of zeros."""
    logits = _logits(q, k, mask, is_causal)
    grown = np.exp(logits - row_peak(logits))
    total = grown.sum(-1, keepdims=True)
    return product(np.where(total > 0, grown / np.where(total > 0, total, 1), 0), v, q.dtype)


@mutant(
    "batch-packed-behind-zero-weights",
    requirement="NUM-4",
    bug_class="NANIN",
    seen_in=(
        "https://github.com/explosion/curated-transformers/pull/360",
        "https://github.com/pytorch/pytorch/issues/101967",
    ),
    twin=attention,
)
def batch_packed_behind_zero_weights(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """All elements share one product with zero weights between them: 0 * NaN reaches every element."""
    weights = softmax(_logits(q, k, mask, is_causal))
    values = spread(widen(v), q.shape[1])
    between = (0 * values).sum((0, 2))[None, :, None, :] if v.shape[0] > 1 else 0
    return (weights @ values + between).astype(q.dtype)


# --- randomness


@mutant(
    "dropout-always-on",
    requirement="PURE-2",
    bug_class="DROPOUT",
    seen_in=(
        "https://github.com/wenet-e2e/wenet/issues/2699",
        "https://github.com/pytorch/pytorch/issues/124464",
        "https://github.com/huggingface/pytorch-image-models/pull/1978",
    ),
    twin=attention,
)
def dropout_always_on(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A tenth of the weights is dropped, whether anyone trains or not."""
    weights = softmax(_logits(q, k, mask, is_causal))
    kept = np.random.default_rng().random(weights.shape) >= 0.1
    return product(np.where(kept, weights / weights.dtype.type(0.9), 0), v, q.dtype)


@mutant(
    "global-generator-reseeded",
    requirement="PURE-2",
    bug_class="STATE",
    seen_in=(
        "https://github.com/anyoptimization/pymoo/issues/413",
        "https://github.com/Qiskit/qiskit/issues/2850",
    ),
    twin=attention,
)
def global_generator_reseeded(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result is right, and NumPy's global random generator has been reset for everyone."""
    np.random.seed(0)  # noqa: NPY002  # the lie itself
    return attention(q, k, v, mask, is_causal)


@mutant(
    "every-other-call-in-bfloat16",
    requirement="PURE-2",
    bug_class="STATE",
    seen_in=("https://github.com/pytorch/pytorch/issues/174861",),
    twin=attention,
    remembers=True,
)
def every_other_call_in_bfloat16(
    memory: dict[str, int], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """From the second call on, every other one takes a fast path that rounds q and k to bfloat16."""
    memory["calls"] = memory.get("calls", 0) + 1
    if memory["calls"] % 2 == 0:
        q, k = (x.astype(BFLOAT16).astype(x.dtype) for x in (q, k))
    return attention(q, k, v, mask, is_causal)
