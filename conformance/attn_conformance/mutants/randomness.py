"""Lies about randomness: numbers are drawn, or calls alternate."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from attn_conformance.mutants import mutant
from attn_conformance.mutants.plain import (
    Array,
    attention,
    product,
    seen_logits,
    softmax,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@mutant(
    "dropout-always-on",
    requirement="PURE-2",
    bug_class="DROPOUT",
    seen_in=(
        "https://github.com/wenet-e2e/wenet/issues/2699",
        "https://github.com/pytorch/pytorch/issues/124464",
        "https://github.com/huggingface/pytorch-image-models/pull/1978",
    ),
    twin=attention,
)
def dropout_always_on(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """A tenth of the weights is dropped, whether anyone trains or not."""
    weights = softmax(seen_logits(q, k, mask, is_causal))
    kept = np.random.default_rng().random(weights.shape) >= 0.1
    return product(np.where(kept, weights / weights.dtype.type(0.9), 0), v, q.dtype)


@mutant(
    "dropout-of-nothing-draws",
    requirement="PURE-2",
    bug_class="DROPOUT",
    seen_in=(
        "https://github.com/huggingface/transformers/pull/44202",
        "https://github.com/pytorch/pytorch/pull/175274",
    ),
    twin=attention,
)
def dropout_of_nothing_draws(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result is right: dropout at the rate 0 keeps all weights, and has drawn a number for each of them."""
    weights = softmax(seen_logits(q, k, mask, is_causal))
    kept = np.random.random(weights.shape) >= 0  # noqa: NPY002  # the lie itself
    return product(np.where(kept, weights, 0), v, q.dtype)


@mutant(
    "global-generator-reseeded",
    requirement="PURE-2",
    bug_class="STATE",
    seen_in=(
        "https://github.com/anyoptimization/pymoo/issues/413",
        "https://github.com/Qiskit/qiskit/issues/2850",
    ),
    twin=attention,
)
def global_generator_reseeded(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result is right, and NumPy's global random generator has been reset for everyone."""
    np.random.seed(0)  # noqa: NPY002  # the lie itself
    return attention(q, k, v, mask, is_causal)


@mutant(
    "every-other-call-in-bfloat16",
    requirement="PURE-2",
    bug_class="STATE",
    seen_in=("https://github.com/pytorch/pytorch/issues/174861",),
    twin=attention,
    remembers=True,
)
def every_other_call_in_bfloat16(
    memory: dict[str, int], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """From the second call on, every other one takes a fast path that rounds q and k to bfloat16."""
    memory["calls"] = memory.get("calls", 0) + 1
    if memory["calls"] % 2 == 0:
        q, k = (x.astype(BFLOAT16).astype(x.dtype) for x in (q, k))
    return attention(q, k, v, mask, is_causal)
