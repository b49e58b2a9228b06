"""Lies about NaN: hidden, or carried to where it does not belong."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant
from attn_conformance.mutants.plain import (
    Array,
    attention,
    product,
    row_peak,
    seen_logits,
    softmax,
    spread,
    widen,
)


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
    logits = seen_logits(q, k, mask, is_causal)
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
    weights = softmax(seen_logits(q, k, mask, is_causal))
    values = spread(widen(v), q.shape[1])
    between = (0 * values).sum((0, 2))[None, :, None, :] if v.shape[0] > 1 else 0
    return (weights @ values + between).astype(q.dtype)
