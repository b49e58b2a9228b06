"""Lies about what a mask means and when it counts, in forward, in qkv_attention, or in both."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import empty_rows, mask_values, masks, quiet
from attn_conformance.mutants.modules import Array, Cache, Plain, module_mutant
from attn_conformance.mutants.plain import is_bool, is_float, visible

# --- polarity


@module_mutant(
    "inverted-mask-in-forward",
    requirement="MASK-1",
    bug_class="POLARITY",
    seen_in=(
        "https://github.com/nyu-mll/jiant/pull/465",
        "https://github.com/InseeFrLab/torchTextClassifiers/pull/92",
    ),
)
class InvertedMaskInForward(Plain):
    """Forward reads a boolean mask as True = forbidden; qkv_attention does not."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return super().between(q, k, v, ~mask if mask is not None and is_bool(mask) else mask)


@module_mutant(
    "inverted-mask-in-qkv-attention",
    requirement="MASK-1",
    bug_class="POLARITY",
    seen_in=("https://github.com/lucidrains/halonet-pytorch/issues/4",),
)
class InvertedMaskInQkvAttention(Plain):
    """qkv_attention reads a boolean mask as True = forbidden; forward does not."""

    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        return super().qkv_attention(q, k, v, ~mask if mask is not None and is_bool(mask) else mask)


# --- floating masks


@module_mutant(
    "float-mask-as-boolean-in-the-module",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=("https://github.com/pytorch/pytorch/issues/107084",),
)
class FloatMaskAsBooleanInTheModule(Plain):
    """A floating mask is cast to boolean: whatever is not 0 may be attended to."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return mask_values.float_mask_as_boolean(q, k, v, mask, self.causal)


@module_mutant(
    "float-mask-rounded-to-half-in-the-module",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=("https://github.com/jax-ml/jax/issues/32242",),
)
class FloatMaskRoundedToHalfInTheModule(Plain):
    """A floating mask passes through float16 on its way: 1000.25 is added as 1000, -70000 forbids."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return mask_values.float_mask_rounded_to_half(q, k, v, mask, self.causal)


@module_mutant(
    "float-mask-divided-by-the-root-of-the-head-size",
    requirement="MASK-2",
    bug_class="ORDER",
    seen_in=("https://github.com/microsoft/onnxruntime/pull/28370",),
)
class FloatMaskDividedByTheRootOfTheHeadSize(Plain):
    """A floating mask is added before the scale is applied, so that it is divided by sqrt(D) too."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return masks.mask_added_before_scale(q, k, v, mask, self.causal)


@module_mutant(
    "mask-means-causal",
    requirement="MASK-1",
    bug_class="IGNORED",
    seen_in=("https://github.com/openai/whisper/commit/27f971320a50e65fd510b88be04219a6ade31f9b",),
)
class MaskMeansCausal(Plain):
    """That there is a mask switches causality on at T > 1; its values reach nothing."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        T = q.shape[1]
        if mask is not None:
            mask = np.tri(T, k.shape[1], dtype=np.bool_) if T > 1 else None
        return super().between(q, k, v, mask)


# --- shapes


@module_mutant(
    "first-head-mask-for-all-in-the-module",
    requirement="MASK-3",
    bug_class="MSHAPE",
    seen_in=("https://github.com/microsoft/onnxruntime/issues/26766",),
)
class FirstHeadMaskForAllInTheModule(Plain):
    """The mask's plane for head 0 is used for every head."""

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return super().attend(q, k, v, mask[:, :1] if mask is not None and mask.ndim == 4 else mask)


@module_mutant(
    "first-element-mask-for-all-in-the-module",
    requirement="MASK-3",
    bug_class="MSHAPE",
    seen_in=("https://github.com/pytorch/pytorch/pull/184180",),
)
class FirstElementMaskForAllInTheModule(Plain):
    """The mask's plane for batch element 0 is used for the whole batch."""

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return super().attend(q, k, v, mask[:1] if mask is not None and mask.ndim == 4 else mask)


@module_mutant(
    "inverted-mask-below-4-dims-in-the-module",
    requirement="MASK-4",
    bug_class="POLARITY",
    seen_in=("https://github.com/neuro-galaxy/torch_brain/pull/74",),
)
class InvertedMaskBelow4DimsInTheModule(Plain):
    """A boolean mask is read as True = forbidden where it arrives as (T, S), the branch that broadcasts."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return masks.inverted_mask_below_4_dims(q, k, v, mask, self.causal)


@module_mutant(
    "batch-mask-tiled-over-heads-in-the-module",
    requirement="MASK-4",
    least={"S": 3},
    bug_class="MSHAPE",
    seen_in=("https://github.com/lsdefine/attention-is-all-you-need-keras/issues/36",),
)
class BatchMaskTiledOverHeadsInTheModule(Plain):
    """A mask (B, 1, T, S) is expanded to B*H planes by tiling the batch, so that elements swap masks."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        B, H, T, S = (*q.shape[:3], k.shape[2])
        if mask is not None and mask.ndim == 4 and mask.shape[1] == 1 and mask.shape[0] == B:
            rows = np.broadcast_to(mask[:, 0], (B, T, S))
            mask = np.concatenate([rows] * H).reshape(B, H, T, S)
        return super().core(q, k, v, mask)


@module_mutant(
    "key-mask-along-queries-in-forward",
    requirement="MASK-4",
    bug_class="MSHAPE",
    seen_in=("https://github.com/hyunwoongko/transformer/pull/40",),
)
class KeyMaskAlongQueriesInForward(Plain):
    """Forward lays a key mask (B, 1, 1, S) along the queries where T == S."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if mask is not None and mask.ndim == 4 and mask.shape[2] == 1 and q.shape[1] == k.shape[1]:
            mask = np.broadcast_to(mask.swapaxes(2, 3), (*mask.shape[:2], mask.shape[3], mask.shape[3]))
        return super().between(q, k, v, mask)


# --- rows without a visible key


@module_mutant(
    "mean-of-values-for-empty-rows-in-the-module",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=("https://github.com/microsoft/onnxruntime/pull/28958",),
)
class MeanOfValuesForEmptyRowsInTheModule(Plain):
    """A row without a visible key attends to all keys alike, as a finite fill makes it."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return empty_rows.mean_of_values_for_empty_rows(q, k, v, mask, self.causal)


@module_mutant(
    "nan-for-empty-rows-in-the-module",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=("https://github.com/pytorch/pytorch/issues/103963",),
)
class NanForEmptyRowsInTheModule(Plain):
    """A row without a visible key is 0/0."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return empty_rows.nan_for_empty_rows(q, k, v, mask, self.causal)


@module_mutant(
    "empty-rows-zero-behind-the-out-projection",
    requirement="MASK-5",
    bug_class="FULLMASK",
    seen_in=("https://github.com/huggingface/transformers/issues/35032",),
)
class EmptyRowsZeroBehindTheOutProjection(Plain):
    """A query that no head shows a key is 0 in forward's result, without the bias of the out projection."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        out = super().__call__(x, xa, mask, kv_cache)
        if mask is None:
            return out
        q = np.zeros((len(x), self.n_head, x.shape[1], 1))
        seen = visible(q, np.zeros((*q.shape[:2], mask.shape[-1], 1)), mask, False)
        return np.where(np.any(seen, (1, 3), keepdims=True)[:, 0], out, 0).astype(out.dtype)


# --- forbidden keys


@module_mutant(
    "mask-added-as-minus-100-in-the-module",
    requirement="MASK-6",
    bug_class="FILL",
    seen_in=("https://github.com/huggingface/transformers/pull/18185",),
)
class MaskAddedAsMinus100InTheModule(Plain):
    """A boolean mask is turned into an addend of -100, which a large enough logit overcomes."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return mask_values.mask_added_as_minus_100(q, k, v, mask, self.causal)


@module_mutant(
    "peak-over-forbidden-keys-in-the-module",
    requirement="MASK-6",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/pytorch/pytorch/pull/130014",),
)
class PeakOverForbiddenKeysInTheModule(Plain):
    """The row's maximum counts forbidden keys: one more than 104 above the visible ones drives them to 0."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return mask_values.peak_over_forbidden_keys(q, k, v, mask, self.causal)


# --- masks that change nothing


@module_mutant(
    "peak-before-float-mask-in-the-module",
    requirement="MASK-7",
    bug_class="ORDER",
    seen_in=("https://github.com/microsoft/onnxruntime/pull/28370",),
)
class PeakBeforeFloatMaskInTheModule(Plain):
    """The row's maximum is taken before a floating mask is added: a constant beyond +-88 overflows exp."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return masks.peak_before_float_mask(q, k, v, mask, self.causal)


@module_mutant(
    "all-true-mask-read-as-causal-in-forward",
    requirement="MASK-7",
    bug_class="IGNORED",
    seen_in=("https://github.com/huggingface/transformers/issues/48172",),
)
class AllTrueMaskReadAsCausalInForward(Plain):
    """Forward drops an all-True mask as needless, and without a mask the causal flag defaults to True."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if mask is not None and is_bool(mask) and mask.all() and not self.causal:
            mask = np.tri(q.shape[1], k.shape[1], k.shape[1] - q.shape[1], dtype=np.bool_)
        return super().between(q, k, v, mask)


# --- masks that are ignored


@module_mutant(
    "no-mask-at-single-query-in-the-module",
    requirement="MASK-8",
    bug_class="IGNORED",
    seen_in=("https://github.com/OpenNMT/OpenNMT-py/pull/2532",),
)
class NoMaskAtSingleQueryInTheModule(Plain):
    """The mask is skipped at T = 1, because decoding needs none."""

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return super().attend(q, k, v, None if q.shape[1] == 1 else mask)


@module_mutant(
    "no-mask-with-a-cache",
    requirement="MASK-8",
    bug_class="IGNORED",
    seen_in=("https://github.com/huggingface/transformers/pull/30311",),
    also_fails={
        "CACHE-1": "an empty cache drops the mask too",
        "CACHE-6": "a mask over cached keys is dropped",
    },
)
class NoMaskWithACache(Plain):
    """The mask is skipped whenever a cache is given, an empty one too."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        return super().__call__(x, xa, mask if kv_cache is None else None, kv_cache)


@module_mutant(
    "cross-mask-only-when-square",
    requirement="MASK-8",
    bug_class="CROSS",
    seen_in=(
        "https://github.com/speechbrain/speechbrain/pull/2282",
        "https://github.com/speechbrain/speechbrain/issues/1107",
    ),
)
class CrossMaskOnlyWhenSquare(Plain):
    """Cross-attention applies the mask only where its last two sizes agree."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        skipped = xa is not None and mask is not None and mask.shape[-1] != mask.shape[-2]
        return super().__call__(x, xa, None if skipped else mask, kv_cache)


@module_mutant(
    "float-mask-ignored-by-forward",
    requirement="MASK-2",
    bug_class="MDTYPE",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/92554",
        "https://github.com/mlverse/torch/issues/1205",
    ),
)
class FloatMaskIgnoredByForward(Plain):
    """Forward takes note of boolean masks only."""

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return super().between(q, k, v, None if is_float(mask) else mask)
