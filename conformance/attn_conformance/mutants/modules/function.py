"""Lies about the function itself: projections, their composition, heads, scale, and what xa is for."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

from typing import Any

import numpy as np

from attn_conformance.mutants import heads, quiet, sizes, softmax
from attn_conformance.mutants.modules import Array, Cache, Pair, Plain, Projection, module_mutant
from attn_conformance.mutants.plain import attention, widen

# --- self-attention


@module_mutant(
    "heads-merged-without-transpose-in-forward",
    requirement="EQ-4",
    bug_class="HEADS",
    seen_in=(
        "https://github.com/jsbaan/transformer-from-scratch/pull/6",
        "https://github.com/ajhalthor/Transformer-Neural-Network/pull/4",
    ),
)
class HeadsMergedWithoutTransposeInForward(Plain):
    """Forward reads (B, H, T, D) as (B, T, H*D): heads and positions are mixed."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return self.core(self.split(q), self.split(k), self.split(v), mask).reshape(q.shape)


@module_mutant(
    "packed-projections-in-another-order",
    requirement="EQ-1",
    bug_class="HEADS",
    seen_in=("https://github.com/onnx/onnx/commit/b9a3100a953e3fd5d8a547cb2d5df4edbfcb9570",),
    also_fails={"EQ-4": "what self-attention composes is judged there too"},
)
class PackedProjectionsInAnotherOrder(Plain):
    """Self-attention projects once with all weights, and takes the parts for query, value, key."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        k, v = super().keys_and_values(x, xa, kv_cache)
        return (v, k) if xa is None else (k, v)


@module_mutant(
    "self-attention-always-causal",
    requirement="EQ-1",
    bug_class="LEAK",
    seen_in=("https://github.com/lucidrains/soundstorm-pytorch/issues/37",),
    also_fails={"EQ-4": "qkv_attention is right", "CACHE-3": "later keys are hidden with a cache too"},
)
class SelfAttentionAlwaysCausal(Plain):
    """Self-attention without a mask is causal, whatever the module was constructed with."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        asked = self.causal
        self.causal = asked or (xa is None and mask is None)
        try:
            return super().__call__(x, xa, mask, kv_cache)
        finally:
            self.causal = asked


@module_mutant(
    "zero-tokens-of-x-read-as-padding",
    requirement="EQ-1",
    bug_class="BATCH",
    seen_in=(
        "https://github.com/Kyubyong/transformer/pull/69",
        "https://github.com/google/trax/issues/820",
    ),
)
class ZeroTokensOfXReadAsPadding(Plain):
    """In self-attention without mask and cache a token of x that is zero throughout is hidden, bias or not."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        real = (x != 0).any(2)
        if mask is None and xa is None and kv_cache is None and not self.causal and not real.all():
            mask = np.repeat(real[:, None, None], x.shape[1], 2)
        return super().__call__(x, xa, mask, kv_cache)


# --- cross-attention


@module_mutant(
    "xa-of-the-shape-of-x-ignored",
    requirement="EQ-2",
    bug_class="CROSS",
    seen_in=("https://github.com/speechbrain/speechbrain/pull/2282",),
)
class XaOfTheShapeOfXIgnored(Plain):
    """An xa of the same shape as x is taken for x: a self-attention call."""

    def keys_and_values(self, x: Array, xa: Array | None, kv_cache: Cache) -> Pair:
        return super().keys_and_values(x, x if xa is not None and xa.shape == x.shape else xa, kv_cache)


@module_mutant(
    "xa-cut-to-the-length-of-x",
    requirement="EQ-2",
    bug_class="CROSS",
    seen_in=("https://github.com/NVIDIA/TensorRT-LLM/issues/19514",),
)
class XaCutToTheLengthOfX(Plain):
    """Without a mask, what of xa lies beyond the length of x is not read."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        T = q.shape[1]
        if mask is None and not self.causal and T > 0:
            k, v = k[:, :T], v[:, :T]
        return super().between(q, k, v, mask)


@module_mutant(
    "cross-attention-always-causal",
    requirement="EQ-2",
    bug_class="CROSS",
    seen_in=(
        "https://github.com/NVIDIA/TransformerEngine/issues/629",
        "https://github.com/huggingface/transformers/issues/48172",
    ),
)
class CrossAttentionAlwaysCausal(Plain):
    """Cross-attention without a mask is causal, because the flag defaults to True there."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        asked = self.causal
        self.causal = asked or (xa is not None and mask is None)
        try:
            return super().__call__(x, xa, mask, kv_cache)
        finally:
            self.causal = asked


@module_mutant(
    "zero-rows-of-xa-read-as-padding",
    requirement="EQ-2",
    bug_class="BATCH",
    seen_in=("https://github.com/Kyubyong/transformer/pull/69",),
)
class ZeroRowsOfXaReadAsPadding(Plain):
    """A row of xa whose features are all zero is taken for padding and hidden: shows if there is such a row."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        if xa is not None and mask is None and kv_cache is None and not self.causal:
            real = (xa != 0).any(2)
            mask = None if real.all() else np.repeat(real[:, None, None], x.shape[1], 2)
        return super().__call__(x, xa, mask, kv_cache)


# --- what lies between the projections


@module_mutant(
    "no-scale-in-qkv-attention",
    requirement="EQ-3",
    bug_class="SCALE",
    seen_in=("https://github.com/flexflow/flexflow-train/issues/467",),
)
class NoScaleInQkvAttention(Plain):
    """qkv_attention does not scale, because forward is thought to have done so."""

    @quiet
    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        self.check_qkv(q, k, v, mask)
        return self.merge(
            attention(self.split(q), self.split(k), self.split(v), mask, self.causal, scale=1.0)
        )


@module_mutant(
    "softmax-over-queries-in-the-module",
    requirement="EQ-3",
    bug_class="SOFTMAX",
    seen_in=(
        "https://github.com/labmlai/annotated_deep_learning_paper_implementations/issues/146",
        "https://github.com/nerdai/llms-from-scratch-rs/pull/30",
    ),
)
class SoftmaxOverQueriesInTheModule(Plain):
    """The weights of each key sum to 1 over the queries, where those of a query should over the keys."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return softmax.softmax_over_queries(q, k, v, mask, self.causal)


@module_mutant(
    "qkv-attention-projects-the-result",
    requirement="EQ-3",
    bug_class="HEADS",
    seen_in=("https://github.com/onnx/onnx/commit/b9a3100a953e3fd5d8a547cb2d5df4edbfcb9570",),
)
class QkvAttentionProjectsTheResult(Plain):
    """qkv_attention applies the out projection too: its result is that of forward."""

    @quiet
    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        return self.out(super().qkv_attention(q, k, v, mask))


@module_mutant(
    "scaled-in-forward-and-again-between",
    requirement="EQ-4",
    bug_class="SCALE",
    seen_in=("https://github.com/PAIR-code/tiny-transformers/issues/71",),
    also_fails={"EQ-1": "the composition is the function", "EQ-2": "the same"},
)
class ScaledInForwardAndAgainBetween(Plain):
    """Forward scales the query by 1/sqrt(D), and so does what lies between the projections."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        scale = (self.n_state / self.n_head) ** -0.5
        return super().between((scale * widen(q)).astype(q.dtype), k, v, mask)


@module_mutant(
    "weights-not-transposed",
    requirement="EQ-4",
    bug_class="STRIDE",
    seen_in=("https://github.com/flagos-ai/FlagGems/issues/5896",),
    also_fails={"EQ-1": "the composition is the function", "EQ-2": "the same"},
)
class WeightsNotTransposed(Plain):
    """The out projection is x W, where the weight's first axis is the result's: shapes agree, and values do not."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.out = _Untransposed(n_state)


class _Untransposed(Projection):
    """y = x W + b: a weight is turned round, a bias has one axis."""

    def cast(self, parameter: Array, x: Array) -> Array:
        return super().cast(parameter, x).T


@module_mutant(
    "value-bias-not-wired-in",
    requirement="EQ-4",
    bug_class="IGNORED",
    seen_in=("https://github.com/microsoft/onnxscript/pull/1833",),
    also_fails={"EQ-1": "the composition is the function", "EQ-2": "the same"},
)
class ValueBiasNotWiredIn(Plain):
    """The bias of the value projection is loaded and never added."""

    def project(self, source: Array) -> Pair:
        bare = Projection(self.n_state, bias=False)
        bare.weight = self.value.weight
        return self.key(source), bare(source)


@module_mutant(
    "value-bias-missing-on-the-causal-path",
    requirement="EQ-4",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/microsoft/onnxscript/pull/1833",
        "https://github.com/keras-team/keras/issues/23038",
    ),
)
class ValueBiasMissingOnTheCausalPath(Plain):
    """Causal self-attention goes by a path of its own in forward, which does not add the bias of value."""

    def project(self, source: Array) -> Pair:
        if not self.causal:
            return super().project(source)
        bare = Projection(self.n_state, bias=False)
        bare.weight = self.value.weight
        return self.key(source), bare(source)


# --- heads and tiles


@module_mutant(
    "scale-from-n-state",
    requirement="EQ-5",
    bug_class="SCALE",
    seen_in=(
        "https://github.com/FareedKhan-dev/train-llm-from-scratch/pull/3",
        "https://github.com/omihub777/ViT-CIFAR/pull/12",
    ),
)
class ScaleFromNState(Plain):
    """The scale is 1/sqrt(n_state), that of the model and not of the head."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return attention(q, k, v, mask, self.causal, scale=float(self.n_state) ** -0.5)


@module_mutant(
    "value-projection-split-the-other-way",
    requirement="EQ-5",
    bug_class="HEADS",
    seen_in=("https://github.com/ByteDance-Seed/VeOmni/pull/162",),
)
class ValueProjectionSplitTheOtherWay(Plain):
    """V is split as (D, H) where Q and K are split as (H, D)."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return heads.value_heads_split_the_other_way(q, k, v, mask, self.causal)


@module_mutant(
    "last-key-of-the-module-dropped-past-a-tile",
    requirement="EQ-6",
    least={"S": 65},
    bug_class="TAIL",
    seen_in=("https://github.com/pytorch/pytorch/issues/191937",),
)
class LastKeyOfTheModuleDroppedPastATile(Plain):
    """The last key is dropped when S % 32 == 1 and S > 1."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return sizes.last_key_dropped_past_a_tile(q, k, v, mask, self.causal)


@module_mutant(
    "sixteen-bit-offsets-into-the-batch",
    requirement="EQ-6",
    least={"T": 200, "S": 200},
    bug_class="INT32",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/162588",
        "https://github.com/Dao-AILab/flash-attention/issues/2214",
    ),
)
class SixteenBitOffsetsIntoTheBatch(Plain):
    """Offsets into q, (B, T, n_state), are 16-bit integers, and wrap where it has more than 32768 elements."""

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if q.size > 2**15:
            wrapped: Any = np.arange(q.size).astype(np.int16)
            q = q.reshape(-1)[wrapped].reshape(q.shape)
        return super().attend(q, k, v, mask)
