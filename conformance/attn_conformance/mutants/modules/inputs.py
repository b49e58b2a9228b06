"""Lies about what is handed in: arguments and parameters that are changed, and memory layouts."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

import numpy as np

from attn_conformance.mutants import layout, quiet, state
from attn_conformance.mutants.modules import Array, Cache, Plain, module_mutant

# --- arguments and parameters that are changed


@module_mutant(
    "mask-filled-in-place-by-the-module",
    requirement="PURE-1",
    bug_class="ALIAS",
    seen_in=("https://github.com/pytorch/pytorch/issues/109072",),
)
class MaskFilledInPlaceByTheModule(Plain):
    """After the call a boolean mask is all True, and minus infinities of a floating one are finite."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return state.mask_filled_in_place(q, k, v, mask, self.causal)


@module_mutant(
    "query-scaled-in-place-by-qkv-attention",
    requirement="PURE-1",
    bug_class="ALIAS",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/pull/2084",),
)
class QueryScaledInPlaceByQkvAttention(Plain):
    """The scale is multiplied into q where it lies, which in qkv_attention is the caller's array (D > 1)."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return state.query_scaled_in_place(q, k, v, mask, self.causal)


@module_mutant(
    "residual-added-in-place",
    requirement="PURE-1",
    bug_class="ALIAS",
    seen_in=("https://github.com/openai/whisper/commit/9e653bd0ea0f1e9493cb4939733e9de249493cfb",),
)
class ResidualAddedInPlace(Plain):
    """The result is right, and has been added to the caller's x on the way, where that can be written."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        out = super().__call__(x, xa, mask, kv_cache)
        if x.flags.writeable:
            x[...] = x + out
        return out


@module_mutant(
    "query-and-key-weights-balanced",
    requirement="PURE-1",
    bug_class="ALIAS",
    seen_in=("https://github.com/MemTensor/MemOS/pull/2359",),
)
class QueryAndKeyWeightsBalanced(Plain):
    """The first call doubles the query's parameters and halves the key's: the result is the same bit for bit."""

    balanced = False

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        if not self.balanced and self.query.bias is not None:
            two = self.query.weight.dtype.type(2)
            self.query.weight, self.query.bias = self.query.weight * two, self.query.bias * two
            self.key.weight = self.key.weight / two
            self.balanced = True
        return super().__call__(x, xa, mask, kv_cache)


@module_mutant(
    "weights-stay-cast",
    requirement="PURE-1",
    bug_class="PREC",
    seen_in=("https://github.com/tenstorrent/tt-metal/issues/10209",),
    also_fails={"PURE-6": "a later call in a wider dtype finds rounded weights"},
)
class WeightsStayCast(Plain):
    """Weights held in another dtype than x's are replaced by what they are cast to."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        self.load_state_dict({name: array.astype(x.dtype) for name, array in self.state_dict().items()})
        return super().__call__(x, xa, mask, kv_cache)


# --- layouts


@module_mutant(
    "strides-of-x-ignored",
    requirement="PURE-5",
    bug_class="STRIDE",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/181133",
        "https://github.com/torch-spyre/torch-spyre/issues/4331",
    ),
)
class StridesOfXIgnored(Plain):
    """Forward reads x as if it were contiguous: transposed or sliced views give other elements."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        return super().__call__(layout.read(x, layout.dense_steps(x.shape)), xa, mask, kv_cache)


@module_mutant(
    "expanded-xa-read-as-dense",
    requirement="PURE-5",
    bug_class="STRIDE",
    seen_in=("https://github.com/pytorch/pytorch/issues/191937",),
)
class ExpandedXaReadAsDense(Plain):
    """An xa with some stride 0 is taken for dense: reads run past the one copy that there is."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        if xa is not None and 0 in xa.strides:
            xa = layout.read(xa, layout.dense_steps(xa.shape))
        return super().__call__(x, xa, mask, kv_cache)


@module_mutant(
    "strides-ignored-by-qkv-attention",
    requirement="PURE-5",
    bug_class="STRIDE",
    seen_in=("https://github.com/flagos-ai/FlagGems/issues/5896",),
)
class StridesIgnoredByQkvAttention(Plain):
    """qkv_attention reads q, k and v as if they were contiguous."""

    @quiet
    def qkv_attention(self, q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        self.check_qkv(q, k, v, mask)
        q, k, v = (layout.read(x, layout.dense_steps(x.shape)) for x in (q, k, v))
        return self.attend(q, k, v, mask)


@module_mutant(
    "strides-of-the-mask-ignored",
    requirement="PURE-5",
    bug_class="STRIDE",
    seen_in=("https://github.com/pytorch/pytorch/issues/112577",),
)
class StridesOfTheMaskIgnored(Plain):
    """The mask is read as if it were contiguous: a slice of a larger mask gives other elements."""

    def attend(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        dense = None if mask is None else layout.read(np.asarray(mask), layout.dense_steps(mask.shape))
        return super().attend(q, k, v, dense)
