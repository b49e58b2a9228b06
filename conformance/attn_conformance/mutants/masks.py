"""Lies about what a mask means and when it counts: polarity, masks that are ignored, order of operations."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant
from attn_conformance.mutants.plain import (
    NEVER,
    Array,
    attention,
    hide_future,
    is_bool,
    is_float,
    masked,
    product,
    row_peak,
    scores,
    softmax,
    visible,
    widen,
)


@mutant(
    "inverted-mask",
    requirement="MASK-1",
    bug_class="POLARITY",
    seen_in=(
        "https://github.com/lucidrains/halonet-pytorch/issues/4",
        "https://github.com/nyu-mll/jiant/pull/465",
    ),
    twin=attention,
)
def inverted_mask(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """A boolean mask is read as True = forbidden."""
    return attention(q, k, v, ~mask if mask is not None and is_bool(mask) else mask, is_causal)


@mutant(
    "inverted-mask-below-4-dims",
    requirement="MASK-4",
    bug_class="POLARITY",
    seen_in=("https://github.com/neuro-galaxy/torch_brain/pull/74",),
    twin=attention,
)
def inverted_mask_below_4_dims(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask is read as True = forbidden where it arrives as (T, S), the branch that broadcasts."""
    if mask is not None and is_bool(mask) and mask.ndim < 4:
        mask = ~mask
    return attention(q, k, v, mask, is_causal)


@mutant(
    "mask-fill-result-dropped",
    requirement="MASK-1",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/espnet/espnet/pull/1273",
        "https://github.com/lucidrains/flamingo-pytorch/issues/10",
    ),
    twin=attention,
)
def mask_fill_result_dropped(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The filled scores of a boolean mask are computed and thrown away."""
    logits = scores(q, k)
    if is_float(mask):
        logits = masked(logits, mask)
    else:
        masked(logits, mask)
    return product(softmax(hide_future(logits, is_causal)), v, q.dtype)


@mutant(
    "no-mask-at-single-query",
    requirement="MASK-8",
    bug_class="IGNORED",
    seen_in=("https://github.com/OpenNMT/OpenNMT-py/pull/2532",),
    twin=attention,
)
def no_mask_at_single_query(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is skipped at T = 1, because decoding needs none."""
    return attention(q, k, v, None if q.shape[2] == 1 else mask, is_causal)


@mutant(
    "no-mask-when-first-element-allows-all",
    requirement="MASK-8",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/ml-explore/mlx-lm/issues/1906",
        "https://github.com/huggingface/transformers/pull/46773",
    ),
    twin=attention,
)
def no_mask_when_first_element_allows_all(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is skipped when batch element 0 has no padding, as if the others had none either."""
    if mask is not None and is_bool(mask) and mask.ndim == 4 and mask[:1].all():
        mask = None
    return attention(q, k, v, mask, is_causal)


@mutant(
    "mask-only-when-square",
    requirement="MASK-8",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/keras-team/keras/issues/23038",
        "https://github.com/speechbrain/speechbrain/issues/1107",
    ),
    twin=attention,
)
def mask_only_when_square(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is applied only where T == S: cross-attention goes without."""
    return attention(q, k, v, mask if q.shape[2] == k.shape[2] else None, is_causal)


@mutant(
    "all-true-mask-read-as-causal",
    requirement="MASK-7",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/huggingface/transformers/issues/48172",
        "https://github.com/lucidrains/soundstorm-pytorch/issues/37",
    ),
    twin=attention,
)
def all_true_mask_read_as_causal(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """An all-True mask is dropped as needless, and without a mask the causal flag defaults to True."""
    if mask is not None and is_bool(mask) and mask.all():
        mask, is_causal = None, True
    return attention(q, k, v, mask, is_causal)


@mutant(
    "mask-after-softmax",
    requirement="MASK-1",
    bug_class="ORDER",
    seen_in=(
        "https://github.com/huggingface/pytorch-image-models/pull/2236",
        "https://github.com/vllm-project/vllm-omni/pull/5704",
    ),
    twin=attention,
)
def mask_after_softmax(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask zeroes weights after the softmax, which are not normalised again."""
    logits = hide_future(scores(q, k) if is_bool(mask) else masked(scores(q, k), mask), is_causal)
    weights = softmax(logits)
    if mask is not None and is_bool(mask):
        weights = np.where(mask, weights, 0)
    return product(weights, v, q.dtype)


@mutant(
    "mask-multiplied",
    requirement="MASK-1",
    bug_class="FILL",
    seen_in=(
        "https://github.com/georg-wolflein/good-features/pull/1",
        "https://github.com/onnx/onnx/issues/8054",
    ),
    twin=attention,
)
def mask_multiplied(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask multiplies the scores, so that a forbidden key keeps the logit 0."""
    logits = scores(q, k)
    if mask is None or not is_bool(mask):
        return product(softmax(hide_future(masked(logits, mask), is_causal)), v, q.dtype)
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True)
    weights = softmax(hide_future(np.where(mask, logits, 0), is_causal))
    return product(np.where(seen, weights, 0), v, q.dtype)


@mutant(
    "mask-added-before-scale",
    requirement="MASK-2",
    bug_class="ORDER",
    seen_in=(
        "https://github.com/microsoft/onnxruntime/pull/28370",
        "https://github.com/onnx/onnx/issues/7865",
    ),
    twin=attention,
)
def mask_added_before_scale(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A floating mask is added before the scale is applied, so that it is divided by sqrt(D) too."""
    logits = q.shape[-1] ** -0.5 * masked(scores(q, k, 1.0), mask)
    return product(softmax(hide_future(logits, is_causal)), v, q.dtype)


@mutant(
    "peak-before-float-mask",
    requirement="MASK-7",
    bug_class="ORDER",
    seen_in=("https://github.com/HabanaAI/vllm-fork/issues/275",),
    twin=attention,
)
def peak_before_float_mask(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The row's maximum is taken before a floating mask is added: a constant beyond +-88 overflows exp."""
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    if mask is None or not is_float(mask):
        return product(softmax(logits), v, q.dtype)
    bare = np.where(np.isneginf(logits), NEVER, scores(q, k))
    return product(softmax(logits, row_peak(bare)), v, q.dtype)


@mutant(
    "float-mask-left-out-of-denominator",
    requirement="MASK-2",
    bug_class="ORDER",
    seen_in=("https://github.com/abisee/pointer-generator/issues/88",),
    twin=attention,
)
def float_mask_left_out_of_denominator(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Finite values of a floating mask scale the normalised weights, which then do not sum to 1."""
    if mask is None or not is_float(mask):
        return attention(q, k, v, mask, is_causal)
    bias = widen(mask) if q.dtype != np.float64 else mask.astype(np.float64)
    hidden = np.isneginf(bias)
    weights = softmax(hide_future(np.where(hidden, NEVER, scores(q, k)), is_causal))
    return product(weights * np.exp(np.where(hidden, 0, bias)), v, q.dtype)
