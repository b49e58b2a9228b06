"""Lies about memory layout: strides that are ignored or taken from another array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from attn_conformance.mutants import mutant
from attn_conformance.mutants.plain import Array, attention


def memory_of(x: Array) -> tuple[Array, int]:
    """The elements from the lowest to the highest address that x uses, flat, and where x begins in them."""
    spans = [(n - 1) * s // x.itemsize for n, s in zip(x.shape, x.strides, strict=True)]
    below = -sum(span for span in spans if span < 0)
    above = sum(span for span in spans if span > 0)
    lowest = x[tuple(slice(-1, None) if span < 0 else slice(None, 1) for span in spans)]
    return as_strided(lowest, (below + above + 1,), (x.itemsize,), writeable=False), below


def steps(x: Array) -> list[int]:
    """The strides of x in elements."""
    return [stride // x.itemsize for stride in x.strides]


def dense_steps(shape: Sequence[int]) -> list[int]:
    """The strides in elements of a contiguous array."""
    return [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]


def read(x: Array, strides: Sequence[int]) -> Array:
    """The array that lies in x's memory under other strides (in elements); what lies beyond it reads as 0."""
    if x.size == 0 or any(stride % x.itemsize for stride in x.strides):
        return x
    memory, start = memory_of(x)
    index = np.full((1,) * x.ndim, start)
    for axis, (n, stride) in enumerate(zip(x.shape, strides, strict=True)):
        index = index + (np.arange(n) * stride).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    inside = (index >= 0) & (index < memory.size)
    return np.where(inside, memory[np.where(inside, index, 0)], np.zeros((), x.dtype))


def by_strides(q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False) -> Array:
    """Right: every array is read from its memory by its own strides."""
    q, k, v = (read(x, steps(x)) for x in (q, k, v))
    return attention(q, k, v, None if mask is None else read(mask, steps(mask)), is_causal)


@mutant(
    "strides-ignored",
    requirement="PURE-5",
    bug_class="STRIDE",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/181133",
        "https://github.com/flagos-ai/FlagGems/issues/5896",
        "https://github.com/torch-spyre/torch-spyre/issues/4331",
    ),
    twin=by_strides,
)
def strides_ignored(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Memory is read as if q, k and v were contiguous: transposed or sliced views give other elements."""
    q, k, v = (read(x, dense_steps(x.shape)) for x in (q, k, v))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "last-stride-taken-for-one",
    requirement="PURE-5",
    bug_class="STRIDE",
    seen_in=(
        "https://github.com/pytorch/pytorch/pull/187506",
        "https://github.com/Dao-AILab/flash-attention/pull/2777",
    ),
    twin=by_strides,
)
def last_stride_taken_for_one(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """All strides are honoured but that of the last axis, which is taken for 1."""
    q, k, v = (read(x, [*steps(x)[:-1], 1]) for x in (q, k, v))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "expanded-batch-read-as-dense",
    requirement="PURE-5",
    bug_class="STRIDE",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/191937",
        "https://github.com/Dao-AILab/flash-attention/commit/be76c60f5b9c829236248504a380793f38c697f1",
    ),
    twin=by_strides,
)
def expanded_batch_read_as_dense(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """Expanded k and v (some stride 0) are taken for dense: reads run past the one copy that there is."""

    def dense_if_expanded(x: Array) -> Array:
        expanded = any(n > 1 and stride == 0 for n, stride in zip(x.shape, x.strides, strict=True))
        return read(x, dense_steps(x.shape)) if expanded else x

    return attention(q, dense_if_expanded(k), dense_if_expanded(v), mask, is_causal)


@mutant(
    "values-read-with-the-keys-strides",
    requirement="PURE-5",
    bug_class="STRIDE",
    seen_in=(
        "https://github.com/Dao-AILab/flash-attention/commit/9ee0ff1d9b6a99630e2a6868b9291dfa32d35abd",
        "https://github.com/Dao-AILab/flash-attention/pull/2388",
    ),
    twin=by_strides,
)
def values_read_with_the_keys_strides(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The strides of k serve v too, where their shapes agree: shows if the two are laid out differently."""
    if v.shape == k.shape:
        v = read(v, steps(k))
    return attention(q, k, v, mask, is_causal)


@mutant(
    "mask-strides-ignored",
    requirement="PURE-5",
    bug_class="STRIDE",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/112577",
        "https://github.com/flashinfer-ai/flashinfer/issues/4044",
    ),
    twin=by_strides,
)
def mask_strides_ignored(
    q: Array, k: Array, v: Array, mask: Array | None = None, is_causal: bool = False
) -> Array:
    """The mask is read as if it were contiguous: a slice of a larger mask gives other elements."""
    if mask is not None:
        mask = read(mask, dense_steps(mask.shape))
    return attention(q, k, v, mask, is_causal)
