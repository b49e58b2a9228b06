"""Lies about length: what is right for a thousand keys, and wrong for one or for all of those beyond."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant, tiled
from attn_conformance.mutants.plain import (
    NEVER,
    Array,
    attention,
    is_bool,
    masked,
    product,
    scores,
    seen_logits,
    softmax,
)

SPLIT = 1024
"""Keys that are attended to apart."""


@mutant(
    "length-clamped-to-sixteen-bits",
    requirement="NUM-1",
    least={"T": 16, "S": 32768},
    bug_class="INT32",
    seen_in=(
        "https://github.com/vllm-project/tpu-inference/pull/2756",
        "https://github.com/sgl-project/sglang-jax/pull/1649",
    ),
    twin=attention,
    dtypes=("bfloat16",),
)
def length_clamped_to_sixteen_bits(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The number of keys is kept in a signed 16-bit integer, at most 32767: of 32768 keys the last is dropped."""
    logits = seen_logits(q, k, mask, is_causal)
    logits[..., np.iinfo(np.int16).max :] = NEVER
    return product(softmax(logits), v, q.dtype)


@mutant(
    "splits-share-a-key",
    requirement="NUM-1",
    least={"T": 16, "S": 1025},
    bug_class="TAIL",
    seen_in=("https://github.com/vllm-project/flash-attention/pull/142",),
    twin=tiled.attention,
    dtypes=("bfloat16",),
)
def splits_share_a_key(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Keys are split by 1024, and each split but the first begins with the last key of the one before."""
    S = k.shape[2]
    splits = [np.arange(max(first - 1, 0), min(first + SPLIT, S)) for first in range(0, S, SPLIT)]
    taken = np.concatenate(splits) if splits else np.arange(0)
    logits = seen_logits(q, k, mask, is_causal)[..., taken]
    return tiled.accumulate(logits, v[:, :, taken], SPLIT).astype(q.dtype)


@mutant(
    "keys-wrap-at-16384",
    requirement="NUM-1",
    least={"S": 32768},
    bug_class="INT32",
    seen_in=(
        "https://github.com/Dao-AILab/flash-attention/issues/2214",
        "https://github.com/state-spaces/mamba/issues/1015",
    ),
    twin=attention,
    dtypes=("bfloat16",),
)
def keys_wrap_at_16384(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The offset of a key wraps after 16384 of them: key 16384 is read where key 0 lies, and so on."""
    read = np.arange(k.shape[2]) % 16384
    return attention(q, k[:, :, read], v[:, :, read], mask, is_causal)


@mutant(
    "causal-positions-in-half",
    requirement="CAUSAL-3",
    least={"T": 8, "S": 4104},
    bug_class="LEAK",
    seen_in=("https://github.com/lucidrains/local-attention/issues/12",),
    twin=attention,
)
def causal_positions_in_half(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Positions are compared in float16, which has no odd numbers beyond 2048: a query there may see the next key."""
    logits = masked(scores(q, k), mask)
    if is_causal:
        T, S = logits.shape[-2:]
        query, key = (np.arange(first, S).astype(np.float16) for first in (S - T, 0))
        logits = np.where(key <= query[:, None], logits, NEVER)
    return product(softmax(logits), v, q.dtype)


@mutant(
    "mask-ignored-past-4096-keys",
    requirement="MASK-1",
    least={"T": 8, "S": 8193},
    bug_class="IGNORED",
    seen_in=("https://github.com/vllm-project/vllm-ascend/issues/15503",),
    twin=attention,
)
def mask_ignored_past_4096_keys(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is read for the first 4096 keys; those beyond are visible to all queries."""
    if mask is not None and mask.shape[-1] > 4096:
        mask = mask.copy()
        mask[..., 4096:] = True if is_bool(mask) else 0
    return attention(q, k, v, mask, is_causal)
