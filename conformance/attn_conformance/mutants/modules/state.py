"""Lies about purity in time and in the batch: randomness, neighbours, and what earlier calls leave behind."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attn_conformance.mutants import neighbours, quiet, randomness, state
from attn_conformance.mutants.modules import Array, Cache, Pair, Plain, SharedMemory, module_mutant
from attn_conformance.mutants.plain import attention, product, seen_logits, softmax, widen

# --- the same call again


@module_mutant(
    "dropout-always-on-in-the-module",
    requirement="PURE-2",
    bug_class="DROPOUT",
    seen_in=(
        "https://github.com/espnet/espnet/blob/14f8e75c8d39d35da26821a282b8f2f18c3e9cf9/espnet2/speechlm/module/builtin.py",
        "https://github.com/wenet-e2e/wenet/issues/2699",
    ),
)
class DropoutAlwaysOnInTheModule(Plain):
    """A tenth of the weights is dropped, whether anyone trains or not."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return randomness.dropout_always_on(q, k, v, mask, self.causal)


@module_mutant(
    "dropout-of-a-fixed-seed",
    requirement="EQ-3",
    bug_class="DROPOUT",
    seen_in=(
        "https://github.com/facebookresearch/vjepa2/pull/160",
        "https://github.com/NVIDIA/TransformerEngine/pull/227",
    ),
)
class DropoutOfAFixedSeed(Plain):
    """A tenth of the weights is dropped without training, the same ones in every call, which hides it from reruns."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        weights = softmax(seen_logits(q, k, mask, self.causal))
        kept = np.random.default_rng(0).random(weights.shape) >= 0.1
        return product(np.where(kept, weights / weights.dtype.type(0.9), 0), v, q.dtype)


@module_mutant(
    "global-generator-reseeded-by-the-module",
    requirement="PURE-2",
    bug_class="STATE",
    seen_in=("https://github.com/anyoptimization/pymoo/issues/413",),
)
class GlobalGeneratorReseededByTheModule(Plain):
    """The result is right, and NumPy's global random generator has been reset for everyone."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return randomness.global_generator_reseeded(q, k, v, mask, self.causal)


# --- neighbours


@module_mutant(
    "peak-over-whole-batch-in-the-module",
    requirement="PURE-3",
    bug_class="BATCH",
    seen_in=("https://github.com/fla-org/flash-linear-attention/issues/671",),
)
class PeakOverWholeBatchInTheModule(Plain):
    """One maximum serves the whole batch: logits more than 104 below a neighbour's come out as zeros."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return neighbours.peak_over_whole_batch(q, k, v, mask, self.causal)


@module_mutant(
    "last-of-odd-batch-has-its-neighbours-values",
    requirement="PURE-3",
    least={"B": 3},
    bug_class="BATCH",
    seen_in=("https://github.com/huggingface/transformers/issues/32848",),
)
class LastOfOddBatchHasItsNeighboursValues(Plain):
    """Elements are projected in pairs, and the last of an odd number gets its neighbour's values (B >= 3)."""

    def project(self, source: Array) -> Pair:
        k, v = super().project(source)
        if len(v) >= 3 and len(v) % 2 == 1:
            v[-1] = v[-2]
        return k, v


@module_mutant(
    "first-key-counted-twice-in-the-module",
    requirement="PURE-4",
    bug_class="SOFTMAX",
    seen_in=("https://github.com/ml-explore/mlx/issues/3452",),
)
class FirstKeyCountedTwiceInTheModule(Plain):
    """The first key has twice its weight, as if it were a sink."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return neighbours.first_key_counted_twice(q, k, v, mask, self.causal)


@module_mutant(
    "distance-bias-left-on-in-the-module",
    requirement="PURE-4",
    bug_class="ORDER",
    seen_in=("https://github.com/vllm-project/vllm/pull/945",),
)
class DistanceBiasLeftOnInTheModule(Plain):
    """A slope by head and key position is added that nobody asked for: keys and heads are no longer equal."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return neighbours.distance_bias_left_on(q, k, v, mask, self.causal)


# --- what earlier calls leave behind


@module_mutant(
    "triangle-of-the-first-length-in-the-module",
    requirement="PURE-6",
    bug_class="COMPILE",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/115262",
        "https://github.com/pytorch/pytorch/issues/148545",
    ),
    also_fails={"CACHE-2": "the first chunk of a sequence decides too"},
)
class TriangleOfTheFirstLengthInTheModule(Plain):
    """The causal triangle is built for the first length; rows beyond it, in longer calls, see nothing."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.memory: dict[str, Array] = {}

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return state.triangle_of_the_first_length(self.memory, q, k, v, mask, self.causal)


@module_mutant(
    "causality-decided-by-the-first-length",
    requirement="PURE-6",
    bug_class="COMPILE",
    seen_in=("https://github.com/pytorch/pytorch/issues/115262",),
    also_fails={"CACHE-2": "a first chunk of one token decides for the others"},
)
class CausalityDecidedByTheFirstLength(Plain):
    """A single query needs no triangle, and the first call decides for all: after one of T = 1 nothing is causal."""

    needed: bool | None = None

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        if self.needed is None:
            self.needed = q.shape[2] > 1
        return attention(q, k, v, mask, self.causal and bool(self.needed))


@module_mutant(
    "scale-remembered-by-n-state",
    requirement="PURE-6",
    bug_class="STATE",
    seen_in=("https://github.com/pytorch/pytorch/pull/184122",),
    twin=SharedMemory,
)
class ScaleRememberedByNState(SharedMemory):
    """The class keeps the scale by n_state: the first module's serves later ones with another number of heads."""

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        scale = self.memory.setdefault(self.n_state, float(q.shape[3]) ** -0.5)
        return attention(q, k, v, mask, self.causal, scale=scale)


@module_mutant(
    "out-weight-kept-by-the-class",
    requirement="PURE-6",
    bug_class="STATE",
    seen_in=("https://github.com/Dao-AILab/flash-attention/commit/be76c60f5b9c829236248504a380793f38c697f1",),
    twin=SharedMemory,
)
class OutWeightKeptByTheClass(SharedMemory):
    """The class keeps a cast out weight by its shape and dtype: two modules of one size get the first one's."""

    @quiet
    def __call__(
        self, x: Array, xa: Array | None = None, mask: Array | None = None, kv_cache: Cache = None
    ) -> Array:
        self.check_forward(x, xa, mask, kv_cache)
        own = self.out.weight
        self.out.weight = self.memory.setdefault((own.shape, x.dtype), own.astype(x.dtype))
        try:
            return super().__call__(x, xa, mask, kv_cache)
        finally:
            self.out.weight = own


@module_mutant(
    "weights-cast-once",
    requirement="PURE-6",
    bug_class="STALE",
    seen_in=("https://github.com/keras-team/keras-hub/pull/1434",),
)
class WeightsCastOnce(Plain):
    """Value weights in another dtype than x's are cast once and kept: changes to them come too late."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.cast: dict[Any, Array] = {}

    def project(self, source: Array) -> Pair:
        k, v = super().project(source)
        if self.value.weight.dtype == source.dtype or self.value.bias is None:
            return k, v
        weight = self.cast.setdefault(source.dtype, self.value.weight.astype(source.dtype))
        bias = self.value.bias.astype(source.dtype)
        return k, (widen(source) @ widen(weight).T + widen(bias)).astype(source.dtype)


@module_mutant(
    "packed-weights-kept",
    requirement="PURE-6",
    bug_class="STALE",
    seen_in=("https://github.com/time-series-foundation-models/lag-llama/issues/81",),
)
class PackedWeightsKept(Plain):
    """The parameters of the first call serve all later ones: those loaded afterwards are held, and not used."""

    packed = False
    unused: Mapping[str, Array] | None = None

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        if self.packed:
            self.unused = {name: np.array(array) for name, array in state.items()}
        else:
            super().load_state_dict(state)

    def state_dict(self) -> dict[str, Array]:
        return super().state_dict() if self.unused is None else dict(self.unused)

    def project(self, source: Array) -> Pair:
        self.packed = True
        return super().project(source)


@module_mutant(
    "last-mask-kept-by-the-module",
    requirement="PURE-6",
    bug_class="STATE",
    seen_in=(
        "https://github.com/flashinfer-ai/flashinfer/pull/1028",
        "https://github.com/flashinfer-ai/flashinfer/pull/441",
    ),
)
class LastMaskKeptByTheModule(Plain):
    """A call without a mask uses the last one that was given for the same shapes."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.memory: dict[Any, Array] = {}

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return state.last_mask_kept(self.memory, q, k, v, mask, self.causal)


@module_mutant(
    "output-buffer-recycled-by-the-module",
    requirement="PURE-6",
    bug_class="FULLMASK",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/pull/1533",),
)
class OutputBufferRecycledByTheModule(Plain):
    """Empty rows are not written, and the output's memory is that of earlier calls: their numbers show."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        super().__init__(n_state, n_head, causal)
        self.memory: dict[Any, Array] = {}

    def core(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        return state.output_buffer_recycled(self.memory, q, k, v, mask, self.causal)


@module_mutant(
    "mask-off-after-a-call-that-the-module-rejected",
    requirement="PURE-6",
    bug_class="STATE",
    seen_in=("https://github.com/flashinfer-ai/flashinfer/issues/3125",),
)
class MaskOffAfterACallThatTheModuleRejected(Plain):
    """A rejected call leaves a flag set, and the next good one goes without its mask."""

    clean = True

    def check_forward(self, x: Array, xa: Array | None, mask: Array | None, kv_cache: Cache) -> None:
        try:
            super().check_forward(x, xa, mask, kv_cache)
        except (TypeError, ValueError):
            self.clean = False
            raise

    def between(self, q: Array, k: Array, v: Array, mask: Array | None) -> Array:
        clean, self.clean = self.clean, True
        return super().between(q, k, v, mask if clean else None)
