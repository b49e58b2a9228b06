"""Lies about the result: its shape, its length, its dtype, and what it is where a size is zero."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.mutants.modules import Array, Cache, Plain, module_mutant
from attn_conformance.mutants.modules.plain import Pair

# --- self-attention


@module_mutant(
    "scores-of-a-single-query-returned-too",
    requirement="OUT-1",
    bug_class="VALID",
    seen_in=("https://github.com/NVIDIA-NeMo/Speech/pull/4859",),
)
class ScoresOfASingleQueryReturnedToo(Plain):
    """At T = 1 forward returns a pair, of which the second stands for the scores."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Any:
        out = super().__call__(x, xa, mask, kv_cache)
        return (out, None) if x.shape[1] == 1 else out


@module_mutant(
    "unit-batch-squeezed-by-forward",
    requirement="OUT-1",
    bug_class="EMPTY",
    seen_in=("https://github.com/NVIDIA/tacotron2/pull/303",),
)
class UnitBatchSqueezedByForward(Plain):
    """The result loses its batch axis where B == 1."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        out = super().__call__(x, xa, mask, kv_cache)
        return out[0] if out.shape[0] == 1 else out


@module_mutant(
    "time-comes-first-for-a-batch-of-one",
    requirement="OUT-1",
    bug_class="HEADS",
    seen_in=("https://github.com/facebookresearch/xformers/issues/761",),
)
class TimeComesFirstForABatchOfOne(Plain):
    """Self-attention returns (T, 1, n_state) where B == 1."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        out = super().__call__(x, xa, mask, kv_cache)
        return out.swapaxes(0, 1) if xa is None and len(x) == 1 else out


@module_mutant(
    "unit-batch-squeezed-where-causal",
    requirement="OUT-1",
    bug_class="EMPTY",
    seen_in=(
        "https://github.com/galsang/BiDAF-pytorch/pull/26",
        "https://github.com/mead-ml/mead-baseline/pull/703",
    ),
)
class UnitBatchSqueezedWhereCausal(Plain):
    """A causal module, as of a decoder, returns (T, n_state) where B == 1."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        out = super().__call__(x, xa, mask, kv_cache)
        return out[0] if self.causal and len(x) == 1 else out


# --- cross-attention


@module_mutant(
    "xa-must-be-as-long-as-x",
    requirement="OUT-2",
    bug_class="CROSS",
    seen_in=("https://github.com/NVIDIA/TensorRT-LLM/issues/19514",),
)
class XaMustBeAsLongAsX(Plain):
    """An xa of another shape than x is refused, as the page's "same shape as x" can be read."""

    def check_forward(self, x: Array, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        super().check_forward(x, xa, mask, kv_cache)
        if xa is not None and xa.shape != x.shape:
            raise ValueError(f"xa must have the shape of x, {x.shape}, got {xa.shape}")


@module_mutant(
    "result-cut-to-the-length-of-xa",
    requirement="OUT-2",
    bug_class="CROSS",
    seen_in=("https://github.com/huggingface/transformers/issues/35032",),
)
class ResultCutToTheLengthOfXa(Plain):
    """Cross-attention returns min(T, S) rows: the buffer has the length of xa."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        out = super().__call__(x, xa, mask, kv_cache)
        return out if xa is None else out[:, : xa.shape[1]]


@module_mutant(
    "result-padded-to-the-length-of-xa",
    requirement="OUT-2",
    bug_class="CROSS",
    seen_in=("https://github.com/vllm-project/vllm-omni/issues/5865",),
)
class ResultPaddedToTheLengthOfXa(Plain):
    """Cross-attention returns max(T, S) rows, those beyond T zero."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        out = super().__call__(x, xa, mask, kv_cache)
        missing = 0 if xa is None else max(0, xa.shape[1] - x.shape[1])
        return np.pad(out, [(0, 0), (0, missing), (0, 0)])


# --- dtypes


@module_mutant(
    "result-in-the-dtype-of-the-weights",
    requirement="OUT-3",
    bug_class="PREC",
    seen_in=("https://github.com/mlfoundations/open_clip/issues/484",),
)
class ResultInTheDtypeOfTheWeights(Plain):
    """The result has the dtype of the weights, where that is not x's."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        return super().__call__(x, xa, mask, kv_cache).astype(self.out.weight.dtype)


@module_mutant(
    "weights-in-another-dtype-refused",
    requirement="OUT-3",
    bug_class="PREC",
    seen_in=("https://github.com/mlfoundations/open_clip/issues/484",),
)
class WeightsInAnotherDtypeRefused(Plain):
    """Weights in another dtype than x's raise TypeError, as a matrix product of two dtypes does."""

    def check_forward(self, x: Array, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        super().check_forward(x, xa, mask, kv_cache)
        if x.dtype != self.query.weight.dtype:
            raise TypeError(f"expected x of dtype {self.query.weight.dtype}, got {x.dtype}")


@module_mutant(
    "half-precision-result-in-float32",
    requirement="OUT-3",
    bug_class="PREC",
    seen_in=("https://github.com/tinygrad/tinygrad/pull/5100",),
)
class HalfPrecisionResultInFloat32(Plain):
    """The result of float16 and bfloat16 inputs is float32."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        out = super().__call__(x, xa, mask, kv_cache)
        return out.astype(np.float32) if out.dtype.itemsize == 2 else out


@module_mutant(
    "tokens-cast-to-half-where-weights-are",
    requirement="OUT-3",
    bug_class="PREC",
    seen_in=(
        "https://github.com/huggingface/transformers/issues/26451",
        "https://github.com/unslothai/unsloth-zoo/pull/1017",
    ),
)
class TokensCastToHalfWhereWeightsAre(Plain):
    """With weights in half precision x is cast to their dtype, not they to x's; the result is in x's all the same."""

    def project(self, source: Array) -> Pair:
        kind = self.key.weight.dtype
        if kind.itemsize >= source.dtype.itemsize or kind.itemsize > 2:
            return super().project(source)
        k, v = super().project(source.astype(kind))
        return k.astype(source.dtype), v.astype(source.dtype)


# --- zero sizes


@module_mutant(
    "a-row-for-an-empty-chunk",
    requirement="OUT-4",
    bug_class="EMPTY",
    seen_in=("https://github.com/pytorch/pytorch/issues/141218",),
)
class ARowForAnEmptyChunk(Plain):
    """T = 0 still gives one row, of zeros."""

    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        out = super().__call__(x, xa, mask, kv_cache)
        return np.zeros((x.shape[0], 1, x.shape[2]), x.dtype) if x.shape[1] == 0 else out


@module_mutant(
    "empty-chunk-empties-the-cache",
    requirement="OUT-4",
    bug_class="EMPTY",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/2562",),
)
class EmptyChunkEmptiesTheCache(Plain):
    """A chunk of no tokens leaves an empty entry behind, whatever was cached."""

    def join(self, old: Pair, new: Pair) -> Pair:
        return new if new[0].shape[1] == 0 else super().join(old, new)


@module_mutant(
    "nan-without-keys-in-forward",
    requirement="OUT-6",
    bug_class="EMPTY",
    seen_in=("https://github.com/pytorch/pytorch/issues/81077",),
)
class NanWithoutKeysInForward(Plain):
    """An xa of length 0 gives 0/0."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        out = super().between(q, k, v, mask)
        return np.full_like(out, np.nan) if k.shape[1] == 0 else out


@module_mutant(
    "query-returned-without-keys-by-the-module",
    requirement="OUT-6",
    bug_class="EMPTY",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/2562",),
)
class QueryReturnedWithoutKeysByTheModule(Plain):
    """S = 0 leaves the output as it was, which is the query's memory."""

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return q.copy() if k.shape[1] == 0 else super().attend(q, k, v, mask)
