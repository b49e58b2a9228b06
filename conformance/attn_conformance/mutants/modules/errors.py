"""Lies about wrong calls: what is accepted, what is raised, and what a rejected call leaves behind."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.mutants import quiet
from attn_conformance.mutants.modules import Array, Cache, Plain, module_mutant
from attn_conformance.mutants.plain import is_float, widen

# --- shapes that are accepted


@module_mutant(
    "missing-batch-axis-added-by-forward",
    requirement="ERR-1",
    bug_class="VALID",
    seen_in=("https://github.com/google/flax/issues/5496",),
)
class MissingBatchAxisAddedByForward(Plain):
    """An x or xa of rank 2 is accepted as a batch of one."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        x, xa = (a[None] if isinstance(a, np.ndarray) and a.ndim == 2 else a for a in (x, xa))  # type: ignore[assignment]
        return super().__call__(x, xa, mask, kv_cache)


@module_mutant(
    "last-size-cut-or-padded",
    requirement="ERR-1",
    bug_class="VALID",
    seen_in=("https://github.com/google/flax/pull/5505",),
)
class LastSizeCutOrPadded(Plain):
    """An x or xa with more features than n_state is cut, and one with fewer filled up with zeros."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        return super().__call__(self.fitted(x), None if xa is None else self.fitted(xa), mask, kv_cache)

    def fitted(self, x: Array) -> Array:
        """The array with a last axis of n_state."""
        if not isinstance(x, np.ndarray) or x.ndim != 3:
            return x
        missing = max(0, self.n_state - x.shape[2])
        return np.pad(x[..., : self.n_state], [(0, 0), (0, 0), (0, missing)])


@module_mutant(
    "unequal-batches-cut-by-forward",
    requirement="ERR-1",
    bug_class="VALID",
    seen_in=("https://github.com/pytorch/pytorch/issues/64888",),
)
class UnequalBatchesCutByForward(Plain):
    """If x and xa differ in batch size, xa's elements are taken modulo their number."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        if all(isinstance(a, np.ndarray) and a.ndim == 3 and len(a) for a in (x, xa)) and xa is not None:
            xa = xa[np.arange(len(x)) % len(xa)]
        return super().__call__(x, xa, mask, kv_cache)


@module_mutant(
    "unequal-key-and-value-lengths-cut-by-qkv-attention",
    requirement="ERR-1",
    bug_class="VALID",
    seen_in=("https://github.com/pytorch/pytorch/pull/193728",),
)
class UnequalKeyAndValueLengthsCutByQkvAttention(Plain):
    """If k and v differ in length, qkv_attention cuts the longer."""

    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        if all(isinstance(x, np.ndarray) and x.ndim == 3 for x in (k, v)):
            S = min(k.shape[1], v.shape[1])
            k, v = k[:, :S], v[:, :S]
        return super().qkv_attention(q, k, v, mask)


@module_mutant(
    "qkv-attention-takes-any-width",
    requirement="ERR-1",
    bug_class="VALID",
    seen_in=("https://github.com/google/flax/pull/5505",),
)
class QkvAttentionTakesAnyWidth(Plain):
    """qkv_attention splits whatever last size q, k and v have, if the heads divide it."""

    def check_qkv(self, q: Array, k: Array, v: Array, mask: Array | None) -> None:
        own = self.n_state
        width = q.shape[-1] if isinstance(q, np.ndarray) and q.ndim == 3 else own
        self.n_state = width if width and width % self.n_head == 0 else own
        try:
            super().check_qkv(q, k, v, mask)
        finally:
            self.n_state = own


# --- what is raised


@module_mutant(
    "assertion-error-for-wrong-shapes-of-x",
    requirement="ERR-2",
    bug_class="VALID",
    seen_in=("https://github.com/keras-team/keras/pull/22420",),
)
class AssertionErrorForWrongShapesOfX(Plain):
    """Wrong arguments of forward raise AssertionError, as `assert` would; a mask beside causal raises ValueError."""

    def check_forward(self, x: Array, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        try:
            super().check_forward(x, xa, mask, kv_cache)
        except ValueError as error:
            if self.causal and mask is not None:
                raise
            raise AssertionError(*error.args) from None


@module_mutant(
    "module-error-that-names-nothing",
    requirement="ERR-2",
    bug_class="VALID",
    seen_in=("https://github.com/facebookresearch/xformers/issues/683",),
)
class ModuleErrorThatNamesNothing(Plain):
    """Wrong arguments raise ValueError, and no word says which or why."""

    def check_forward(self, x: Array, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        try:
            super().check_forward(x, xa, mask, kv_cache)
        except ValueError:
            raise ValueError("invalid input") from None

    def check_qkv(self, q: Array, k: Array, v: Array, mask: Array | None) -> None:
        try:
            super().check_qkv(q, k, v, mask)
        except ValueError:
            raise ValueError("invalid input") from None


# --- what a rejected call leaves behind


@module_mutant(
    "cache-grown-before-the-mask-is-checked",
    requirement="ERR-3",
    bug_class="CACHEUPD",
    seen_in=("https://github.com/NVIDIA-NeMo/Speech/pull/4859",),
)
class CacheGrownBeforeTheMaskIsChecked(Plain):
    """A mask that does not fit is rejected where it meets the scores: the call's keys are already in the cache."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        try:
            return super().__call__(x, xa, mask, kv_cache)
        except ValueError:
            if mask is not None and not self.causal:
                super().__call__(x, xa, None, kv_cache)
            raise


@module_mutant(
    "cross-entry-dropped-by-a-rejected-call",
    requirement="ERR-3",
    bug_class="STALE",
    seen_in=("https://github.com/huggingface/transformers/pull/45773",),
)
class CrossEntryDroppedByARejectedCall(Plain):
    """A cross-attention call that is rejected for the shape of xa has emptied the entry by then."""

    def check_forward(self, x: Array, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        try:
            super().check_forward(x, xa, mask, kv_cache)
        except ValueError:
            if xa is not None and mask is None and kv_cache is not None:
                for part in (self.key, self.value):
                    kv_cache.pop(part, None)
            raise


@module_mutant(
    "x-scaled-before-the-check",
    requirement="ERR-3",
    bug_class="ALIAS",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/pull/2084",),
)
class XScaledBeforeTheCheck(Plain):
    """A rejected call has already halved x where it lies; a good one leaves it whole."""

    def check_forward(self, x: Any, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        try:
            super().check_forward(x, xa, mask, kv_cache)
        except ValueError:
            causal_mask = self.causal and mask is not None
            if not causal_mask and isinstance(x, np.ndarray) and is_float(x) and x.flags.writeable:
                x[...] = (widen(x) / 2).astype(x.dtype)
            raise
