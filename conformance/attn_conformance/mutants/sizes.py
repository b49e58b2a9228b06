"""Lies about sizes: tile edges, lengths, unit and zero sizes, narrow offsets, the dtype of the result."""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.mutants import mutant, quiet, tiled
from attn_conformance.mutants.plain import (
    Array,
    attention,
    hide_future,
    is_float,
    masked,
    product,
    scores,
    softmax,
    widen,
)


def _logits(q: Array, k: Array, mask: Array | None, is_causal: bool) -> Array:
    return hide_future(masked(scores(q, k), mask), is_causal)


# --- lengths and tiles


@mutant(
    "keys-cut-to-query-length",
    requirement="EQ-3",
    least={"S": 3},
    bug_class="TAIL",
    seen_in=("https://github.com/triton-lang/triton/issues/2059",),
    twin=attention,
)
def keys_cut_to_query_length(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Without a mask or causal rule, keys beyond the number of queries are dropped (T < S)."""
    T = q.shape[2]
    if mask is not None or is_causal or T == 0:
        return attention(q, k, v, mask, is_causal)
    return attention(q, k[:, :, :T], v[:, :, :T])


@mutant(
    "last-key-dropped-past-a-tile",
    requirement="EQ-6",
    least={"S": 129},
    bug_class="TAIL",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/191937",
        "https://github.com/huggingface/transformers/pull/47678",
    ),
    twin=attention,
)
def last_key_dropped_past_a_tile(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The last key is dropped when S % 32 == 1 and S > 1."""
    logits = _logits(q, k, mask, is_causal)
    if k.shape[2] > 1 and k.shape[2] % 32 == 1:
        logits[..., -1] = -np.inf
    return product(softmax(logits), v, q.dtype)


@mutant(
    "last-partial-tile-dropped",
    requirement="EQ-6",
    least={"S": 65},
    bug_class="TAIL",
    seen_in=("https://github.com/pytorch/pytorch/issues/158212",),
    twin=tiled.attention,
)
def last_partial_tile_dropped(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The number of tiles of 64 keys is S // 64: a partial tile after a full one is never read."""
    S = k.shape[2]
    kept = S // 64 * 64 or S
    logits = _logits(q, k, mask, is_causal)
    return tiled.accumulate(logits[..., :kept], v[:, :, :kept]).astype(q.dtype)


@mutant(
    "padded-keys-in-denominator",
    requirement="EQ-3",
    bug_class="TAIL",
    seen_in=(
        "https://github.com/pytorch/pytorch/pull/169222",
        "https://github.com/FluxML/NNkernels.jl/pull/16",
    ),
    twin=tiled.attention,
)
def padded_keys_in_denominator(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Keys that fill up the last tile of 16 have the logit 0, not -inf, and count in the denominator."""
    logits = _logits(q, k, mask, is_causal)
    return tiled.accumulate(logits, v, tile=16, padding=0.0).astype(q.dtype)


@quiet
def in_two_halves(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False, fair: bool = True
) -> Array:
    """Right: from 128 keys on, two halves are attended to apart and joined by their shares of the softmax."""
    logits = _logits(q, k, mask, is_causal)
    S = k.shape[2]
    if S < 128:
        return product(softmax(logits), v, q.dtype)
    halves = [slice(0, S // 2), slice(S // 2, S)]
    outs = [product(softmax(logits[..., half]), v[:, :, half], logits.dtype) for half in halves]
    peaks = np.concatenate([logits[..., half].max(-1, keepdims=True) for half in halves], -1)
    sums = [
        np.exp(logits[..., half] - np.where(np.isneginf(peaks[..., [i]]), 0, peaks[..., [i]])).sum(-1)
        for i, half in enumerate(halves)
    ]
    shares = softmax(peaks + np.log(np.stack(sums, -1)))
    if not fair:
        shares = np.where(shares > 0, np.ones((), shares.dtype) / (shares > 0).sum(-1, keepdims=True), 0)
    joined: Array = shares[..., [0]] * outs[0] + shares[..., [1]] * outs[1]
    return joined.astype(q.dtype)


@mutant(
    "partial-results-averaged",
    requirement="EQ-6",
    least={"S": 128},
    bug_class="TAIL",
    seen_in=(
        "https://github.com/vllm-project/vllm-xpu-kernels/pull/556",
        "https://github.com/sgl-project/sglang/issues/40903",
    ),
    twin=in_two_halves,
)
def partial_results_averaged(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """From 128 keys on, two halves are attended to apart and averaged, whatever their shares."""
    return in_two_halves(q, k, v, mask, is_causal, fair=False)


@mutant(
    "queries-beyond-64-share-the-last-tile",
    requirement="EQ-6",
    least={"T": 200},
    bug_class="TAIL",
    seen_in=("https://github.com/tenstorrent/tt-metal/issues/48899",),
    twin=attention,
)
def queries_beyond_64_share_the_last_tile(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Without mask or causal rule, a last partial tile of queries after 64 is filled with the row at 64."""
    T = q.shape[2]
    if mask is not None or is_causal or T <= 64:
        return attention(q, k, v, mask, is_causal)
    full = T // 64 * 64
    return attention(q[:, :, np.minimum(np.arange(T), full)], k, v)


@mutant(
    "one-query-past-a-tile-never-computed",
    requirement="EQ-6",
    least={"T": 65},
    bug_class="TAIL",
    seen_in=("https://github.com/triton-lang/triton/issues/2059",),
    twin=attention,
)
def one_query_past_a_tile_never_computed(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The number of tiles of 64 queries is rounded up wrongly: where one query is left over, its row stays zero."""
    out = attention(q, k, v, mask, is_causal)
    if q.shape[2] > 64 and q.shape[2] % 64 == 1:
        out[:, :, -1] = 0
    return out


# --- narrow offsets


def _rows(x: Array, offset: Any) -> Array:
    """The rows of x read from its flat elements, row r starting at r * D in integers of dtype `offset`."""
    flat = np.ascontiguousarray(x).reshape(-1)
    D = x.shape[-1]
    with np.errstate(over="ignore"):
        start = (np.arange(flat.size // max(D, 1)) * D).astype(offset).astype(np.int64)
    return np.asarray(flat[(start[:, None] + np.arange(D)) % max(flat.size, 1)].reshape(x.shape))


def by_offset(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """Right: q, k and v are read from their flat elements by 64-bit offsets."""
    q, k, v = (_rows(x, np.int64) for x in (q, k, v))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "sixteen-bit-offsets",
    requirement="EQ-6",
    least={"T": 200},
    bug_class="INT32",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/162588",
        "https://github.com/Dao-AILab/flash-attention/issues/2214",
        "https://github.com/ml-explore/mlx/issues/2894",
    ),
    twin=by_offset,
)
def sixteen_bit_offsets(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Offsets into q, k and v are 16-bit integers, and wrap in arrays of more than 32768 elements."""
    q, k, v = (_rows(x, np.int16) for x in (q, k, v))
    return attention(q, k, v, mask, is_causal)


# --- unit and zero sizes


@mutant(
    "unit-batch-squeezed",
    requirement="EQ-3",
    bug_class="EMPTY",
    seen_in=(
        "https://github.com/NVIDIA/tacotron2/pull/303",
        "https://github.com/NVIDIA/DeepLearningExamples/pull/765",
    ),
    twin=attention,
)
def unit_batch_squeezed(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result loses its batch axis where B == 1."""
    out = attention(q, k, v, mask, is_causal)
    return out[0] if out.shape[0] == 1 else out


@mutant(
    "single-query-squeezed",
    requirement="EQ-3",
    bug_class="EMPTY",
    seen_in=("https://github.com/allenai/allennlp/issues/3599",),
    twin=attention,
)
def single_query_squeezed(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result loses its query axis where T == 1."""
    out = attention(q, k, v, mask, is_causal)
    return out[:, :, 0] if out.shape[2] == 1 else out


@mutant(
    "nan-without-keys",
    requirement="OUT-6",
    bug_class="EMPTY",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/81077",
        "https://github.com/HabanaAI/vllm-fork/pull/318",
    ),
    twin=attention,
)
def nan_without_keys(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """S = 0 gives 0/0."""
    out = attention(q, k, v, mask, is_causal)
    return out if k.shape[2] else out + np.array(np.nan, out.dtype)


@mutant(
    "query-returned-without-keys",
    requirement="OUT-6",
    bug_class="EMPTY",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/2562",),
    twin=attention,
)
def query_returned_without_keys(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """S = 0 leaves the output as it was: q's memory."""
    return attention(q, k, v, mask, is_causal) if k.shape[2] else q.copy()


@mutant(
    "a-row-for-no-queries",
    requirement="OUT-4",
    bug_class="EMPTY",
    seen_in=("https://github.com/pytorch/pytorch/issues/141218",),
    twin=attention,
)
def a_row_for_no_queries(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """T = 0 still gives one row, that of the block which is always launched."""
    out = attention(q, k, v, mask, is_causal)
    return out if q.shape[2] else np.zeros((*out.shape[:2], 1, out.shape[3]), out.dtype)


@mutant(
    "an-element-for-no-batch",
    requirement="OUT-4",
    bug_class="EMPTY",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/1159",),
    twin=attention,
)
def an_element_for_no_batch(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """B = 0 still gives one batch element."""
    out = attention(q, k, v, mask, is_causal)
    return out if q.shape[0] else np.zeros((1, *out.shape[1:]), out.dtype)


# --- the dtype of the result


@mutant(
    "float32-result",
    requirement="OUT-3",
    bug_class="PREC",
    seen_in=(
        "https://github.com/lucidrains/flash-attention-jax/pull/13",
        "https://github.com/tinygrad/tinygrad/pull/5100",
    ),
    twin=attention,
)
def float32_result(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """The result of float16 and bfloat16 inputs is float32."""
    return product(softmax(_logits(q, k, mask, is_causal)), v, widen(q).dtype)


@mutant(
    "mask-dtype-decides-the-result",
    requirement="OUT-3",
    bug_class="MDTYPE",
    seen_in=("https://github.com/huggingface/transformers/issues/47743",),
    twin=attention,
)
def mask_dtype_decides_the_result(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A float32 mask beside float16 or bfloat16 inputs makes the result float32."""
    out = attention(q, k, v, mask, is_causal)
    if mask is not None and is_float(mask) and mask.dtype.itemsize > out.dtype.itemsize:
        return product(softmax(_logits(q, k, mask, is_causal)), v, mask.dtype)
    return out


@mutant(
    "float64-result-in-float32",
    requirement="OUT-3",
    bug_class="PREC",
    seen_in=("https://github.com/tinygrad/tinygrad/pull/5100",),
    twin=attention,
)
def float64_result_in_float32(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result of float64 inputs is float32."""
    out = attention(q, k, v, mask, is_causal)
    return out.astype(np.float32) if out.dtype == np.float64 else out
