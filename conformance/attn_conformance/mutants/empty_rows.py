"""Lies about rows without a visible key."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant, tiled
from attn_conformance.mutants.plain import (
    Array,
    attention,
    hide_future,
    masked,
    product,
    scores,
    softmax,
    visible,
)


@mutant(
    "mean-of-values-for-empty-rows",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=(
        "https://github.com/microsoft/onnxruntime/pull/28958",
        "https://github.com/NVIDIA/apex/issues/1390",
    ),
    twin=attention,
)
def mean_of_values_for_empty_rows(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A row without a visible key attends to all keys alike, as a finite fill makes it."""
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True)
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    return product(softmax(np.where(seen, logits, 0)), v, q.dtype)


@mutant(
    "nan-for-empty-rows",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/103963",
        "https://github.com/allenai/OLMo/issues/322",
    ),
    twin=attention,
)
def nan_for_empty_rows(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A row without a visible key is 0/0."""
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True) | (k.shape[2] == 0)
    out = attention(q, k, v, mask, is_causal)
    return np.where(seen, out, np.array(np.nan, out.dtype))


@mutant(
    "empty-rows-keep-the-query",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/pull/1533",),
    twin=attention,
)
def empty_rows_keep_the_query(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The output starts as a copy of q's memory, and rows without a visible key are never written."""
    out = attention(q, k, v, mask, is_causal)
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True) | (k.shape[2] == 0)
    return np.where(seen, out, q) if out.shape == q.shape else out


@mutant(
    "empty-row-empties-its-tile",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=("https://github.com/facebookresearch/xformers/issues/722",),
    twin=attention,
)
def empty_row_empties_its_tile(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """If the first row of four sees no key, the other three are skipped with it."""
    seen = np.asarray(visible(q, k, mask, is_causal).any(-1, keepdims=True))
    seen = seen[:, :, np.arange(q.shape[2]) // 4 * 4]
    out = attention(q, k, v, mask, is_causal)
    return np.where(seen, out, np.zeros((), out.dtype))


@mutant(
    "nan-when-first-tile-is-hidden",
    requirement="MASK-1",
    least={"S": 40},
    bug_class="FULLMASK",
    seen_in=("https://github.com/pytorch/pytorch/issues/127055",),
    twin=tiled.attention,
)
def nan_when_first_tile_is_hidden(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A tile of 32 keys that is wholly hidden before any visible one gives exp(-inf - -inf)."""
    logits = hide_future(masked(scores(q, k), mask), is_causal)
    out = tiled.accumulate(logits, v, tile=32, guarded=False)
    seen = ~np.isneginf(logits).all(-1, keepdims=True)
    return np.where(seen, out, 0).astype(q.dtype)
