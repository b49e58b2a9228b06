"""Lies about independence: batch elements, heads and keys that meet."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant
from attn_conformance.mutants.plain import (
    NEVER,
    Array,
    attention,
    is_bool,
    product,
    row_peak,
    seen_logits,
    softmax,
    spread,
    widen,
)


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
    logits = seen_logits(q, k, mask, is_causal)
    return product(softmax(logits, row_peak(logits).max(0, keepdims=True, initial=NEVER)), v, q.dtype)


@mutant(
    "last-of-odd-batch-reads-its-neighbour",
    requirement="PURE-3",
    least={"B": 3},
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
    "four-slots-for-the-whole-batch",
    requirement="PURE-3",
    least={"B": 5},
    bug_class="BATCH",
    seen_in=("https://github.com/huggingface/transformers/issues/32848",),
    twin=attention,
)
def four_slots_for_the_whole_batch(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Keys are staged in four slots, where later elements overwrite earlier ones: the last four alone are right."""
    B = k.shape[0]
    staged = np.arange(B) + (B - 1 - np.arange(B)) // 4 * 4
    return attention(q, k[staged], v, mask, is_causal)


@mutant(
    "keys-trimmed-to-the-first-element",
    requirement="PURE-3",
    least={"B": 3, "S": 4},
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
    logits = seen_logits(q, k, mask, is_causal)
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
    return product(softmax(seen_logits(q, k, mask, is_causal) + bias), v, q.dtype)


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
    logits = np.where(spread(padding, q.shape[1]), NEVER, seen_logits(q, k, mask, is_causal))
    return product(softmax(logits), v, q.dtype)
