"""Lies about memory: what is held for all queries at once, where a block of them would do."""

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import mutant
from attn_conformance.mutants.plain import (
    NEVER,
    Array,
    attention,
    attention_in_blocks,
    masked,
    product,
    scores,
    softmax,
    triangle,
)


@mutant(
    "scores-of-all-queries-at-once",
    requirement="MEM-1",
    least={"T": 4096, "S": 4096},
    bug_class="PERF",
    seen_in=("https://github.com/pytorch/pytorch/issues/97514",),
    twin=attention_in_blocks,
    features=("linear-memory",),
)
def scores_of_all_queries_at_once(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Memory is claimed to grow with T + S, and the scores of all queries are held at once."""
    return attention(q, k, v, mask, is_causal)


@mutant(
    "triangle-written-out",
    requirement="MEM-1",
    least={"T": 4096, "S": 4096},
    bug_class="PERF",
    seen_in=("https://github.com/keras-team/keras/pull/22910",),
    twin=attention_in_blocks,
    features=("linear-memory",),
)
def triangle_written_out(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Queries are attended for in blocks, and the causal rule is a floating mask (T, S) that is written out first."""
    if not is_causal:
        return attention_in_blocks(q, k, v, mask)
    rule = np.zeros((q.shape[2], k.shape[2]), np.float32)
    rule[~triangle(*rule.shape)] = NEVER
    if mask is None:
        return attention_in_blocks(q, k, v, rule)
    return product(softmax(masked(masked(scores(q, k), mask), rule)), v, q.dtype)
