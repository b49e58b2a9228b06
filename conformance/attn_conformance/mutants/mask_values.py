"""Lies about floating masks and fills: their dtype, their precision, and finite stand-ins for minus infinity."""

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
    "float-mask-as-boolean",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=("https://github.com/pytorch/pytorch/issues/107084",),
    twin=attention,
)
def float_mask_as_boolean(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A floating mask is cast to boolean: whatever is not 0 may be attended to."""
    return attention(q, k, v, mask.astype(np.bool_) if mask is not None else None, is_causal)


@mutant(
    "finite-mask-values-ignored",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=("https://github.com/openai/whisper/commit/27f971320a50e65fd510b88be04219a6ade31f9b",),
    twin=attention,
)
def finite_mask_values_ignored(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Of a floating mask only the minus infinities count: it says who may attend, and nothing more."""
    if mask is not None and is_float(mask):
        mask = ~np.isneginf(mask.astype(np.float64))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "float-mask-rounded-to-half",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=(
        "https://github.com/jax-ml/jax/issues/32242",
        "https://github.com/unit8co/darts/pull/3087",
    ),
    twin=attention,
    dtypes=("float64", "float32", "bfloat16"),
)
def float_mask_rounded_to_half(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A floating mask passes through float16 on its way: 1000.25 is added as 1000, -70000 forbids."""
    return attention(
        q, k, v, mask.astype(np.float16) if mask is not None and is_float(mask) else mask, is_causal
    )


@mutant(
    "float-mask-rounded-to-query-dtype",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=("https://github.com/mlfoundations/open_clip/issues/484",),
    twin=attention,
)
def float_mask_rounded_to_query_dtype(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A float32 mask beside float16 or bfloat16 inputs is rounded to their dtype before it is added."""
    return attention(
        q, k, v, mask.astype(q.dtype) if mask is not None and is_float(mask) else mask, is_causal
    )


@mutant(
    "forbidden-filled-with-minus-1e4",
    requirement="NUM-3",
    bug_class="FILL",
    seen_in=(
        "https://github.com/ohdearquant/lattice/issues/361",
        "https://github.com/hyunwoongko/transformer/pull/40",
    ),
    twin=attention,
)
def forbidden_filled_with_minus_1e4(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A forbidden logit is set to -10000, which wins where the visible ones lie below that."""
    seen = visible(q, k, mask, is_causal)
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    weights = softmax(np.where(seen, logits, -1e4))
    return product(np.where(seen.any(-1, keepdims=True), weights, 0), v, q.dtype)


@mutant(
    "mask-added-as-minus-100",
    requirement="MASK-6",
    bug_class="FILL",
    seen_in=("https://github.com/huggingface/transformers/pull/18185",),
    twin=attention,
)
def mask_added_as_minus_100(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask is turned into an addend of -100, which a large enough logit overcomes."""
    if mask is None or not is_bool(mask):
        return attention(q, k, v, mask, is_causal)
    logits = hide_future(scores(q, k) + np.where(mask, 0, np.float32(-100)), is_causal)
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True)
    return product(np.where(seen, softmax(logits), 0), v, q.dtype)


@mutant(
    "mask-added-as-minus-1e9",
    requirement="MASK-6",
    bug_class="FILL",
    seen_in=(
        "https://github.com/microsoft/onnxruntime/issues/14363",
        "https://github.com/unit8co/darts/pull/3087",
    ),
    twin=attention,
)
def mask_added_as_minus_1e9(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A boolean mask is turned into an addend of -1e9, which a logit beyond that overcomes."""
    if mask is None or not is_bool(mask):
        return attention(q, k, v, mask, is_causal)
    logits = hide_future(scores(q, k) + np.where(mask, 0, np.float32(-1e9)), is_causal)
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True)
    return product(np.where(seen, softmax(logits), 0), v, q.dtype)


@mutant(
    "peak-over-forbidden-keys",
    requirement="MASK-6",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/pytorch/pytorch/pull/130014",),
    twin=attention,
)
def peak_over_forbidden_keys(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The row's maximum counts forbidden keys: one more than 104 above the visible ones drives them to 0."""
    bias = mask if is_float(mask) else None
    everything = scores(q, k)
    if bias is not None:
        everything = everything + np.where(np.isneginf(widen(bias)), 0, widen(bias))
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    return product(softmax(logits, row_peak(everything)), v, q.dtype)


# --- values that are taken for something else


@mutant(
    "mask-values-below-10000-taken-for-minus-infinity",
    requirement="NUM-3",
    bug_class="MDTYPE",
    seen_in=("https://github.com/pytorch/pytorch/issues/107084",),
    twin=attention,
)
def mask_values_below_10000_taken_for_minus_infinity(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """What a floating mask makes smaller by 10000 or more is forbidden: rows in which all is come out empty."""
    if is_float(mask) and mask is not None:
        mask = np.where(widen(mask) <= -10000, np.array(NEVER, mask.dtype), mask)
    return attention(q, k, v, mask, is_causal)


@mutant(
    "bias-of-the-first-head-for-all",
    requirement="MASK-3",
    bug_class="MSHAPE",
    seen_in=("https://github.com/microsoft/onnxruntime/issues/26766",),
    twin=attention,
)
def bias_of_the_first_head_for_all(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Of a floating mask each head has its own forbidden keys, and all have the finite values of the first."""
    if is_float(mask) and mask is not None and mask.ndim == 4:
        hidden = np.isneginf(widen(mask))
        finite = np.where(hidden, np.zeros((), mask.dtype), mask)
        mask = np.where(hidden, np.array(NEVER, mask.dtype), finite[:, :1])
    return attention(q, k, v, mask, is_causal)
