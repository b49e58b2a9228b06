"""Lies about the causal rule: key j is visible to query i iff j <= i + (S - T)."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant
from attn_conformance.mutants.plain import (
    NEVER,
    Array,
    attention,
    masked,
    product,
    scores,
    softmax,
    triangle,
)


def _with_rule(q: Array, k: Array, v: Array, mask: Array | None, rule: Array) -> Array:
    """Attention under `rule` (T, S), True = visible, in place of the causal one."""
    return product(softmax(np.where(rule, masked(scores(q, k), mask), NEVER)), v, q.dtype)


@mutant(
    "causal-ignored",
    requirement="CAUSAL-1",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/facebookresearch/xformers/issues/103",
        "https://github.com/pytorch/pytorch/issues/99282",
    ),
    twin=attention,
)
def causal_ignored(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """is_causal is accepted and has no effect."""
    return attention(q, k, v, mask)


@mutant(
    "one-key-into-the-future",
    requirement="CAUSAL-1",
    bug_class="LEAK",
    seen_in=(
        "https://github.com/huggingface/transformers/issues/39408",
        "https://github.com/rasbt/LLMs-from-scratch/issues/1061",
    ),
    twin=attention,
)
def one_key_into_the_future(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The triangle is one diagonal too high: query i sees key i + 1."""
    if not is_causal:
        return attention(q, k, v, mask)
    T, S = q.shape[2], k.shape[2]
    return _with_rule(q, k, v, mask, triangle(T, S, S - T + 1))


@mutant(
    "causal-by-blocks-of-four",
    requirement="CAUSAL-1",
    bug_class="LEAK",
    seen_in=("https://github.com/pytorch/pytorch/issues/195910",),
    twin=attention,
)
def causal_by_blocks_of_four(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The causal rule is applied once for each group of four query rows: three in four see the future."""
    if not is_causal:
        return attention(q, k, v, mask)
    T, S = q.shape[2], k.shape[2]
    last_of_block = np.minimum(np.arange(T) // 4 * 4 + 3, T - 1)
    return _with_rule(q, k, v, mask, np.arange(S) <= last_of_block[:, None] + (S - T))


@mutant(
    "causal-only-in-even-heads",
    requirement="CAUSAL-1",
    bug_class="LEAK",
    seen_in=("https://github.com/Xilinx/mlir-air/pull/1428",),
    twin=attention,
)
def causal_only_in_even_heads(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The block counter runs over heads too and wraps: every other head sees the future."""
    if not is_causal:
        return attention(q, k, v, mask)
    odd = np.arange(q.shape[1])[:, None, None] % 2 == 1
    return _with_rule(q, k, v, mask, odd | triangle(q.shape[2], k.shape[2]))


@mutant(
    "causal-misses-own-key",
    requirement="CAUSAL-2",
    bug_class="LEAK",
    seen_in=("https://github.com/huggingface/transformers/issues/29623",),
    twin=attention,
)
def causal_misses_own_key(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The triangle is one diagonal too low: query i does not see key i, and the first row is empty."""
    if not is_causal:
        return attention(q, k, v, mask)
    T, S = q.shape[2], k.shape[2]
    return _with_rule(q, k, v, mask, triangle(T, S, S - T - 1))


@mutant(
    "causal-forgets-beyond-16-keys",
    requirement="CAUSAL-2",
    least={"T": 17, "S": 17},
    bug_class="LEAK",
    seen_in=(
        "https://github.com/jax-ml/jax/issues/32300",
        "https://github.com/Dao-AILab/flash-attention/issues/1116",
    ),
    twin=attention,
)
def causal_forgets_beyond_16_keys(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A causal call is a sliding window too: keys more than 16 back are dropped."""
    if not is_causal:
        return attention(q, k, v, mask)
    T, S = q.shape[2], k.shape[2]
    return _with_rule(q, k, v, mask, triangle(T, S) & ~triangle(T, S, S - T - 16))


@mutant(
    "causal-only-when-square",
    requirement="CAUSAL-3",
    least={"S": 3},
    bug_class="ALIGN",
    seen_in=(
        "https://github.com/espnet/espnet/blob/9fdf0c433f0498420f5705ebb83c40b7732f122a/espnet2/speechlm/module/transformer.py",
        "https://github.com/QwenLM/Qwen/issues/979",
    ),
    twin=attention,
)
def causal_only_when_square(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The causal rule is applied only if T == S: a chunk after a cached prefix sees its own future."""
    return attention(q, k, v, mask, is_causal and q.shape[2] == k.shape[2])


@mutant(
    "top-left-triangle",
    requirement="CAUSAL-3",
    least={"S": 3},
    bug_class="ALIGN",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/144858",
        "https://github.com/espnet/espnet/blob/07d20880c122bb925c33ab5e5da632358b754b71/espnet2/speechlm/module/transformer.py",
        "https://github.com/Dao-AILab/flash-attention/issues/282",
    ),
    twin=attention,
)
def top_left_triangle(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The triangle starts at the first key whatever S is: a lone query after a prefix sees only key 0."""
    if not is_causal:
        return attention(q, k, v, mask)
    T, S = q.shape[2], k.shape[2]
    return _with_rule(q, k, v, mask, triangle(T, S, min(0, S - T)))


@mutant(
    "causal-hides-the-prefix",
    requirement="CAUSAL-3",
    least={"S": 3},
    bug_class="ALIGN",
    seen_in=("https://github.com/onnx/onnx/pull/7297",),
    twin=attention,
)
def causal_hides_the_prefix(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Of the keys before the queries' own, those of the prefix, a causal call sees none."""
    if not is_causal:
        return attention(q, k, v, mask)
    T, S = q.shape[2], k.shape[2]
    return _with_rule(q, k, v, mask, triangle(T, S) & (np.arange(S) >= S - T))


@mutant(
    "always-causal",
    requirement="EQ-3",
    bug_class="LEAK",
    seen_in=(
        "https://github.com/lucidrains/soundstorm-pytorch/issues/37",
        "https://github.com/NVIDIA/TransformerEngine/issues/629",
    ),
    twin=attention,
)
def always_causal(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """A call without a mask is causal, whatever is_causal says."""
    return attention(q, k, v, mask, is_causal or mask is None)
