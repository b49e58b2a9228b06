"""Lies about the shapes of masks: planes, broadcasting, and axes that are mixed up."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant
from attn_conformance.mutants.plain import (
    Array,
    attention,
)


@mutant(
    "first-head-mask-for-all",
    requirement="MASK-3",
    bug_class="MSHAPE",
    seen_in=("https://github.com/microsoft/onnxruntime/issues/26766",),
    twin=attention,
)
def first_head_mask_for_all(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask's plane for head 0 is used for every head."""
    return attention(q, k, v, mask[:, :1] if mask is not None and mask.ndim == 4 else mask, is_causal)


@mutant(
    "first-element-mask-for-all",
    requirement="MASK-3",
    bug_class="MSHAPE",
    seen_in=("https://github.com/bghira/SimpleTuner/pull/1502",),
    twin=attention,
)
def first_element_mask_for_all(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask's plane for batch element 0 is used for the whole batch."""
    return attention(q, k, v, mask[:1] if mask is not None and mask.ndim == 4 else mask, is_causal)


def _planes(q: Array, mask: Array, plane: Array) -> Array:
    """The mask (B, 1, T, S) as (B, H, T, S) in which flat plane b*H + h is batch plane `plane[b*H + h]`."""
    return np.asarray(mask[plane, 0].reshape(*q.shape[:2], *mask.shape[2:]))


def per_element_planes(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Right: a mask (B, 1, T, S) is expanded to B*H planes, one batch element after the other."""
    if mask is not None and mask.ndim == 4 and mask.shape[1] == 1 < mask.shape[0]:
        mask = _planes(q, mask, np.repeat(np.arange(q.shape[0]), q.shape[1]))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "batch-mask-tiled-over-heads",
    requirement="MASK-4",
    bug_class="MSHAPE",
    seen_in=(
        "https://github.com/lsdefine/attention-is-all-you-need-keras/issues/36",
        "https://github.com/pytorch/pytorch/pull/184180",
    ),
    twin=per_element_planes,
)
def batch_mask_tiled_over_heads(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask (B, 1, T, S) is expanded to B*H planes by tiling the batch, so that elements swap masks."""
    if mask is not None and mask.ndim == 4 and mask.shape[1] == 1 < mask.shape[0]:
        mask = _planes(q, mask, np.tile(np.arange(q.shape[0]), q.shape[1]))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "key-mask-along-queries-when-square",
    requirement="MASK-4",
    bug_class="MSHAPE",
    seen_in=(
        "https://github.com/hyunwoongko/transformer/pull/40",
        "https://github.com/lsdefine/attention-is-all-you-need-keras/issues/16",
    ),
    twin=attention,
)
def key_mask_along_queries_when_square(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A key mask (B, 1, 1, S) is laid along the queries where T == S."""
    if mask is not None and mask.ndim == 4 and mask.shape[2] == 1 and mask.shape[3] == q.shape[2]:
        mask = mask.swapaxes(2, 3)
    return attention(q, k, v, mask, is_causal)


@mutant(
    "batch-mask-read-per-head",
    requirement="MASK-4",
    least={"S": 3},
    bug_class="MSHAPE",
    seen_in=("https://github.com/pytorch/pytorch/pull/184180",),
    twin=attention,
)
def batch_mask_read_per_head(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask (B, 1, T, S) is read as (1, H, T, S) where B == H."""
    if mask is not None and mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[0] == q.shape[1]:
        mask = mask.swapaxes(0, 1)
    return attention(q, k, v, mask, is_causal)


@mutant(
    "head-mask-read-per-element",
    requirement="MASK-4",
    least={"S": 3},
    bug_class="MSHAPE",
    seen_in=("https://github.com/keras-team/keras/pull/20488",),
    twin=attention,
)
def head_mask_read_per_element(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask (1, H, T, S) is read as (B, 1, T, S) where B == H."""
    if mask is not None and mask.ndim == 4 and mask.shape[0] == 1 and mask.shape[1] == q.shape[0]:
        mask = mask.swapaxes(0, 1)
    return attention(q, k, v, mask, is_causal)


@mutant(
    "first-row-of-mask-for-a-block-of-four",
    requirement="MASK-1",
    bug_class="MSHAPE",
    seen_in=("https://github.com/pytorch/pytorch/issues/195910",),
    twin=attention,
)
def first_row_of_mask_for_a_block_of_four(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is read once for each group of four query rows."""
    if mask is not None and mask.ndim >= 2:
        mask = mask[..., np.arange(mask.shape[-2]) // 4 * 4, :]
    return attention(q, k, v, mask, is_causal)


@mutant(
    "mask-planes-for-four-heads",
    requirement="PURE-4",
    least={"H": 5, "S": 3},
    bug_class="MSHAPE",
    seen_in=("https://github.com/pytorch/pytorch/pull/184180",),
    twin=attention,
)
def mask_planes_for_four_heads(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A mask has room for four heads: the fifth reads the plane of the first, and so on (H > 4)."""
    if mask is not None and mask.ndim == 4 and mask.shape[1] > 1:
        mask = mask[:, np.arange(mask.shape[1]) % 4]
    return attention(q, k, v, mask, is_causal)
