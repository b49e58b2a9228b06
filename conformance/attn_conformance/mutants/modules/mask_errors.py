"""Lies about masks that do not fit: cut, padded, read otherwise, or taken beside causal."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.mutants.modules import Array, Cache, Plain, module_mutant
from attn_conformance.mutants.plain import is_bool

# --- sizes and dtypes


@module_mutant(
    "long-mask-cut-by-forward",
    requirement="MASK-9",
    bug_class="VALID",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/issues/3176",),
)
class LongMaskCutByForward(Plain):
    """Forward slices a mask for more queries or keys than there are, as one buffer for all lengths would be."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        if isinstance(mask, np.ndarray) and mask.ndim in (2, 4) and not self.causal:
            entry = self.stored(kv_cache)
            S = (x if xa is None else xa).shape[1]
            if entry is not None:
                S = entry[0].shape[1] + (S if xa is None else 0)
            mask = mask[..., : max(1, x.shape[1]), :S]
        return super().__call__(x, xa, mask, kv_cache)


@module_mutant(
    "short-mask-padded-by-qkv-attention",
    requirement="MASK-9",
    bug_class="VALID",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/issues/3176",),
)
class ShortMaskPaddedByQkvAttention(Plain):
    """qkv_attention fills a mask for fewer keys than there are up with ones that allow."""

    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        if isinstance(mask, np.ndarray) and mask.ndim in (2, 4) and not self.causal:
            missing = max(0, k.shape[1] - mask.shape[-1])
            fill: Any = True if is_bool(mask) else 0
            mask = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=fill)
        return super().qkv_attention(q, k, v, mask)


@module_mutant(
    "integer-mask-accepted-by-the-module",
    requirement="MASK-9",
    bug_class="MDTYPE",
    seen_in=("https://github.com/NVIDIA-NeMo/Speech/pull/40",),
)
class IntegerMaskAcceptedByTheModule(Plain):
    """An integer mask is taken for a floating one: its 0 and 1 are added to the scores."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        return super().__call__(x, xa, _added(mask), kv_cache)

    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        return super().qkv_attention(q, k, v, _added(mask))


def _added(mask: Array | None) -> Array | None:
    return mask.astype(np.float32) if isinstance(mask, np.ndarray) and mask.dtype.kind in "iu" else mask


@module_mutant(
    "three-dim-mask-read-per-head-by-the-module",
    requirement="MASK-10",
    bug_class="MSHAPE",
    seen_in=("https://github.com/pytorch/pytorch/issues/97605",),
)
class ThreeDimMaskReadPerHeadByTheModule(Plain):
    """A mask (n, T, S) is read as (1, H, T, S): right-shaped for a batch mask where B == H."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        if isinstance(mask, np.ndarray) and mask.ndim == 3:
            mask = mask[None]
        return super().__call__(x, xa, mask, kv_cache)


# --- a mask beside causal


@module_mutant(
    "causal-forward-drops-the-mask",
    requirement="CAUSAL-4",
    bug_class="IGNORED",
    seen_in=("https://github.com/pytorch/pytorch/pull/187413",),
)
class CausalForwardDropsTheMask(Plain):
    """Forward of a causal module ignores a mask without a word."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        return super().__call__(x, xa, None if self.causal else mask, kv_cache)


@module_mutant(
    "all-true-mask-passes-a-causal-forward",
    requirement="CAUSAL-4",
    bug_class="VALID",
    seen_in=("https://github.com/pytorch/pytorch/issues/100709",),
)
class AllTrueMaskPassesACausalForward(Plain):
    """Forward drops a mask that allows everything first, and so does not reject it in a causal module."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        needless = self.causal and isinstance(mask, np.ndarray) and is_bool(mask) and mask.all()
        return super().__call__(x, xa, None if needless else mask, kv_cache)


@module_mutant(
    "single-query-passes-a-causal-forward-with-its-mask",
    requirement="CAUSAL-4",
    bug_class="VALID",
    seen_in=("https://github.com/pytorch/pytorch/issues/100709",),
)
class SingleQueryPassesACausalForwardWithItsMask(Plain):
    """Forward of a causal module takes a mask at T = 1, where causality is thought to mean nothing."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        asked = self.causal
        self.causal = asked and not (mask is not None and x.ndim == 3 and x.shape[1] == 1)
        try:
            return super().__call__(x, xa, mask, kv_cache)
        finally:
            self.causal = asked


@module_mutant(
    "causal-qkv-attention-drops-the-mask",
    requirement="CAUSAL-5",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/pytorch/pytorch/pull/187413",
        "https://github.com/AI-Hypercomputer/maxtext/issues/878",
    ),
)
class CausalQkvAttentionDropsTheMask(Plain):
    """qkv_attention of a causal module ignores a mask without a word; forward rejects it."""

    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        return super().qkv_attention(q, k, v, None if self.causal else mask)


@module_mutant(
    "mask-drops-the-causal-rule-in-qkv-attention",
    requirement="CAUSAL-5",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/keras-team/keras/issues/23038",
        "https://github.com/huggingface/transformers/issues/48748",
    ),
)
class MaskDropsTheCausalRuleInQkvAttention(Plain):
    """qkv_attention of a causal module follows a mask alone: the mask is thought to hold causality already."""

    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        asked = self.causal
        self.causal = asked and mask is None
        try:
            return super().qkv_attention(q, k, v, mask)
        finally:
            self.causal = asked
