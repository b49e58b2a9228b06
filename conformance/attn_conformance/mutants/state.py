"""Lies about purity: inputs that are changed, and what earlier calls leave behind."""

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.mutants import mutant
from attn_conformance.mutants.errors import checked
from attn_conformance.mutants.plain import (
    NEVER,
    Array,
    attention,
    is_bool,
    masked,
    product,
    scores,
    softmax,
    triangle,
    visible,
    widen,
)

# --- inputs that are changed


def _store(target: Array, value: Array) -> None:
    """Write into the caller's array, unless it is write-protected."""
    if target.flags.writeable:
        target[...] = value.astype(target.dtype)


@mutant(
    "mask-filled-in-place",
    requirement="PURE-1",
    bug_class="ALIAS",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/109072",
        "https://github.com/Shujun-He/RibonanzaNet/issues/7",
    ),
    twin=attention,
)
def mask_filled_in_place(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """After the call a boolean mask is all True, and minus infinities of a floating one are finite."""
    out = attention(q, k, v, mask, is_causal)
    if mask is not None and is_bool(mask):
        _store(mask, np.ones_like(mask))
    elif mask is not None:
        _store(mask, np.maximum(widen(mask), -1e4))
    return out


@mutant(
    "query-scaled-in-place",
    requirement="PURE-1",
    bug_class="ALIAS",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/pull/2084",),
    twin=attention,
)
def query_scaled_in_place(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The scale is multiplied into q where it lies (D > 1)."""
    out = attention(q, k, v, mask, is_causal)
    _store(q, widen(q) * q.shape[3] ** -0.5)
    return out


@mutant(
    "keys-scaled-and-scaled-back",
    requirement="PURE-1",
    bug_class="ALIAS",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/pull/2084",),
    twin=attention,
)
def keys_scaled_and_scaled_back(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Keys are multiplied by log2(e) where they lie and divided afterwards: shows only bit for bit."""
    out = attention(q, k, v, mask, is_causal)
    factor = k.dtype.type(np.log2(np.e))
    _store(k, (k * factor).astype(k.dtype) / factor)
    return out


@mutant(
    "result-written-over-the-query",
    requirement="PURE-1",
    bug_class="ALIAS",
    seen_in=("https://github.com/openai/whisper/commit/9e653bd0ea0f1e9493cb4939733e9de249493cfb",),
    twin=attention,
)
def result_written_over_the_query(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The result is written into q's memory, which has the right size."""
    out = attention(q, k, v, mask, is_causal)
    if out.shape == q.shape:
        _store(q, out)
    return out


# --- what earlier calls leave behind


@mutant(
    "triangle-of-the-first-length",
    requirement="PURE-6",
    bug_class="COMPILE",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/115262",
        "https://github.com/pytorch/pytorch/issues/148545",
    ),
    twin=attention,
    remembers=True,
)
def triangle_of_the_first_length(
    memory: dict[str, Array], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """The causal triangle is built for the first length; rows beyond it, in longer calls, see nothing."""
    if not is_causal:
        return attention(q, k, v, mask)
    T, S = q.shape[2], k.shape[2]
    first = memory.setdefault("triangle", triangle(S, S))
    whole = np.zeros((S, S), np.bool_)
    n = min(S, len(first))
    whole[:n, :n] = first[:n, :n]
    rows = np.arange(T) + S - T
    rule = np.where((rows >= 0)[:, None], whole[np.maximum(rows, 0)] if S else np.zeros((T, 0)), False)
    return product(softmax(np.where(rule, masked(scores(q, k), mask), NEVER)), v, q.dtype)


@mutant(
    "result-remembered-by-shape",
    requirement="PURE-6",
    bug_class="STATE",
    seen_in=("https://github.com/pytorch/pytorch/pull/184122",),
    twin=attention,
    remembers=True,
)
def result_remembered_by_shape(
    memory: dict[Any, Array], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """A second call of the same shapes and dtype gives the result of the first, whatever the values."""
    shape = None if mask is None else (mask.shape, mask.dtype)
    key = (q.shape, k.shape, v.shape, q.dtype, shape, is_causal)
    if key not in memory:
        memory[key] = attention(q, k, v, mask, is_causal)
    return memory[key].copy()


@mutant(
    "keys-remembered-by-shape",
    requirement="PURE-6",
    least={"S": 3},
    bug_class="STATE",
    seen_in=(
        "https://github.com/ggml-org/whisper.cpp/issues/2445",
        "https://github.com/keras-team/keras-hub/pull/1434",
    ),
    twin=attention,
    remembers=True,
)
def keys_remembered_by_shape(
    memory: dict[Any, Array], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """Keys in cross-attention (T != S) are packed once per shape: later calls read those of the first."""
    if q.shape[2] != k.shape[2]:
        k = memory.setdefault((k.shape, k.dtype), k.copy())
    return attention(q, k, v, mask, is_causal)


@mutant(
    "scale-remembered-by-model-width",
    requirement="PURE-6",
    bug_class="STATE",
    seen_in=("https://github.com/pytorch/pytorch/pull/184122",),
    twin=attention,
    remembers=True,
)
def scale_remembered_by_model_width(
    memory: dict[int, float], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """The scale is kept by H*D: shows in a call with the same width and another number of heads."""
    scale = memory.setdefault(q.shape[1] * q.shape[3], q.shape[3] ** -0.5)
    return attention(q, k, v, mask, is_causal, scale=scale)


@mutant(
    "last-mask-kept",
    requirement="PURE-6",
    bug_class="STATE",
    seen_in=(
        "https://github.com/flashinfer-ai/flashinfer/pull/1028",
        "https://github.com/flashinfer-ai/flashinfer/pull/441",
    ),
    twin=attention,
    remembers=True,
)
def last_mask_kept(
    memory: dict[Any, Array], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """A call without a mask uses the last one that was given for the same shapes."""
    key = (q.shape[:3], k.shape[2])
    if mask is not None:
        memory[key] = mask.copy()
    return attention(q, k, v, memory.get(key), is_causal)


@mutant(
    "output-buffer-recycled",
    requirement="PURE-6",
    bug_class="FULLMASK",
    seen_in=(
        "https://github.com/flashinfer-ai/flashinfer/pull/1533",
        "https://github.com/tile-ai/tilelang/pull/2461",
    ),
    twin=attention,
    remembers=True,
)
def output_buffer_recycled(
    memory: dict[Any, Array], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """Empty rows are not written, and the output's memory is that of earlier calls: their numbers show."""
    out = attention(q, k, v, mask, is_causal)
    old = memory.get("buffer", np.zeros(0, out.dtype)).astype(out.dtype)
    stale = np.concatenate([old[: out.size], np.zeros(max(0, out.size - old.size), out.dtype)])
    seen = visible(q, k, mask, is_causal).any(-1, keepdims=True) | (k.shape[2] == 0)
    out = np.where(seen, out, stale.reshape(out.shape))
    memory["buffer"] = np.concatenate([out.reshape(-1), old[out.size :]])
    return out


@mutant(
    "dtype-of-the-first-call",
    requirement="PURE-6",
    bug_class="COMPILE",
    seen_in=("https://github.com/tenstorrent/tt-metal/issues/10209",),
    twin=attention,
    remembers=True,
)
def dtype_of_the_first_call(
    memory: dict[str, Any], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """The kernel is built for the first call's dtype: later calls pass through it, however narrow it was."""
    built = memory.setdefault("dtype", q.dtype)
    if built.itemsize < q.dtype.itemsize:
        q, k, v = (x.astype(built).astype(x.dtype) for x in (q, k, v))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "causal-flag-of-the-first-call",
    requirement="PURE-6",
    bug_class="COMPILE",
    seen_in=("https://github.com/pytorch/pytorch/issues/115262",),
    twin=attention,
    remembers=True,
)
def causal_flag_of_the_first_call(
    memory: dict[str, bool], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """is_causal is read while the kernel is built, in the first call: later ones without a mask go by that."""
    built = memory.setdefault("causal", is_causal)
    return attention(q, k, v, mask, built if mask is None else is_causal)


@mutant(
    "mask-off-after-a-rejected-call",
    requirement="PURE-6",
    bug_class="STATE",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/issues/3125",),
    twin=checked,
    features=("validates",),
    remembers=True,
)
def mask_off_after_a_rejected_call(
    memory: dict[str, bool], q: Array, k: Array, v: Array, mask: Array | None, is_causal: bool
) -> Array:
    """A rejected call leaves a flag set, and the next good one goes without its mask."""
    memory["clean"], clean = False, memory.get("clean", True)
    out = checked(q, k, v, mask, is_causal)
    memory["clean"] = True
    return out if clean else attention(q, k, v, None, is_causal)
