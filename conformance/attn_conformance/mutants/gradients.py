"""Lies about gradients: the result is right, and the backward pass of the kernel is not."""

# ruff: noqa: D102  # what is overridden is documented in the plain kernel

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from attn_conformance.mutants import FEATURES, Mutant, register
from attn_conformance.mutants.differentiable import (
    Differentiable,
    Saved,
    Tensor,
    TwiceDifferentiable,
    hidden,
    softmax,
)
from attn_reference.claims import DTYPES, Claims

C = TypeVar("C", bound=type[Differentiable])

RIGHT, TWICE = Differentiable(), TwiceDifferentiable()
"""The twins."""


def gradient_mutant(
    name: str,
    *,
    requirement: str,
    bug_class: str = "GRAD",
    seen_in: tuple[str, ...],
    twin: Differentiable = RIGHT,
    features: tuple[str, ...] = (),
    dtypes: tuple[str, ...] = DTYPES,
    also_fails: Mapping[str, str] | None = None,
    least: Mapping[str, int] | None = None,
) -> Callable[[C], C]:
    """Register a kernel with a wrong backward pass. features: beyond FEATURES and gradients."""

    def decorate(cls: C) -> C:
        kernel = cls()
        kernel.__doc__ = cls.__doc__
        claims = Claims(dtypes=dtypes, features=FEATURES | {"gradients", *features})
        register(
            Mutant(
                name,
                "kernel",
                kernel,
                twin,
                requirement,
                bug_class,
                seen_in,
                claims,
                dict(also_fails or {}),
                dict(least or {}),
            )
        )
        return cls

    return decorate


# --- what ds is


@gradient_mutant(
    "row-term-missing",
    requirement="GRAD-2",
    seen_in=(
        "https://github.com/pjreddie/darknet/pull/96",
        "https://github.com/Dao-AILab/flash-attention/pull/2481",
    ),
    also_fails={"GRAD-4": "the gradient of a mask is that of the scores"},
)
class RowTermMissing(Differentiable):
    """D, the row's mean of the gradient of p, is not subtracted: dv is right, dq and dk are not (S > 1)."""

    def row_term(self, x: Saved, do: Tensor) -> Tensor:
        return 0 * super().row_term(x, do)


@gradient_mutant(
    "row-term-of-the-next-query",
    requirement="GRAD-2",
    seen_in=(
        "https://github.com/flagos-ai/FlagAttention/pull/1",
        "https://github.com/Dao-AILab/flash-attention/pull/2481",
    ),
    also_fails={"GRAD-4": "the gradient of a mask is that of the scores"},
)
class RowTermOfTheNextQuery(Differentiable):
    """D is read one row too far, that of the last query being that of the first (T > 1)."""

    def row_term(self, x: Saved, do: Tensor) -> Tensor:
        return super().row_term(x, do).roll(-1, 2)


@gradient_mutant(
    "backward-pass-always-causal",
    requirement="GRAD-2",
    seen_in=("https://github.com/triton-lang/triton/issues/4541",),
    also_fails={"GRAD-4": "the gradient of a mask is that of the scores"},
)
class BackwardPassAlwaysCausal(Differentiable):
    """The backward pass leaves out later keys, whatever the call says (S > 1)."""

    def ds(self, x: Saved, do: Tensor) -> Tensor:
        T, S = x.p.shape[2:]
        return super().ds(x, do).tril(S - T)


@gradient_mutant(
    "mask-missing-in-the-backward-pass",
    requirement="GRAD-2",
    seen_in=(
        "https://github.com/Dao-AILab/flash-attention/issues/2424",
        "https://github.com/pytorch/pytorch/issues/158212",
    ),
    also_fails={
        "GRAD-3": "keys that no query sees get a gradient",
        "GRAD-4": "the gradient of a mask is that of the scores",
    },
)
class MaskMissingInTheBackwardPass(Differentiable):
    """The weights are recomputed for the backward pass, and the mask is not at hand there."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return super().backward(_with_weights(x, self.weights(x.q, x.k, None, x.is_causal)), do)


def _with_weights(x: Saved, p: Tensor) -> Saved:
    return Saved(x.q, x.k, x.v, p, x.out, x.group, x.mask, x.is_causal, x.needs_mask)


# --- what is made of it


@gradient_mutant(
    "key-gradient-not-scaled",
    requirement="GRAD-2",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/2651",),
)
class KeyGradientNotScaled(Differentiable):
    """The scale is missing in the gradient of k (D > 1)."""

    def dk(self, x: Saved, ds: Tensor) -> Tensor:
        return super().dk(x, ds) / x.scale


@gradient_mutant(
    "query-gradient-scaled-twice",
    requirement="GRAD-2",
    seen_in=("https://github.com/NVIDIA/apex/pull/816",),
)
class QueryGradientScaledTwice(Differentiable):
    """The scale is applied twice in the gradient of q (D > 1)."""

    def dq(self, x: Saved, ds: Tensor) -> Tensor:
        return super().dq(x, ds) * x.scale


@gradient_mutant(
    "value-gradient-of-unnormalised-weights",
    requirement="GRAD-2",
    seen_in=("https://github.com/NVIDIA/apex/pull/816",),
)
class ValueGradientOfUnnormalisedWeights(Differentiable):
    """The gradient of v is built from e^(s - m), which is not divided by its sum (S > 1)."""

    def dv(self, x: Saved, do: Tensor) -> Tensor:
        largest = x.p.amax(-1, keepdim=True)
        return (x.p / largest.masked_fill(largest == 0, 1.0)).mT @ do


@gradient_mutant(
    "last-rows-missing-in-the-key-gradient",
    requirement="GRAD-2",
    least={"T": 17},
    bug_class="TAIL",
    seen_in=(
        "https://github.com/Dao-AILab/flash-attention/commit/a4f148b6abe077cd387e69e5caae45d63a76bb24",
        "https://github.com/pytorch/pytorch/issues/153799",
    ),
)
class LastRowsMissingInTheKeyGradient(Differentiable):
    """The gradient of k is summed over whole tiles of 16 queries: those beyond the last one are left out (T > 16)."""

    def dk(self, x: Saved, ds: Tensor) -> Tensor:
        T = ds.shape[2]
        whole = T // 16 * 16 or T
        return x.scale * (ds[:, :, :whole].mT @ x.q[:, :, :whole])


@gradient_mutant(
    "gradient-of-the-last-head-of-a-group",
    requirement="GRAD-2",
    least={"H": 4},
    bug_class="HEADS",
    seen_in=(
        "https://github.com/marin-community/levanter/pull/449",
        "https://github.com/XunhaoLai/native-sparse-attention-triton/issues/27",
    ),
    features=("gqa",),
)
class GradientOfTheLastHeadOfAGroup(Differentiable):
    """With grouped heads the gradients of k and v are those of the last query head, not the sum over the group."""

    def summed(self, x: Saved, gradient: Tensor) -> Tensor:
        return gradient[:, x.group - 1 :: x.group]


@gradient_mutant(
    "weights-kept-in-one-buffer",
    requirement="GRAD-2",
    bug_class="STATE",
    seen_in=(
        "https://github.com/Dao-AILab/flash-attention/issues/359",
        "https://github.com/Dao-AILab/flash-attention/pull/2481",
    ),
)
class WeightsKeptInOneBuffer(Differentiable):
    """What the backward pass needs lies in a buffer that the next call of the same sizes writes over."""

    def __init__(self) -> None:
        self.buffers: dict[Any, Tensor] = {}

    def fresh(self) -> WeightsKeptInOneBuffer:
        """The same kernel without any buffer yet."""
        return WeightsKeptInOneBuffer()

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        out, p = super().forward(q, k, v, mask, is_causal)
        key = (p.shape, p.dtype)
        if key not in self.buffers:
            self.buffers[key] = p.clone()
        return out, self.buffers[key].copy_(p)


# --- rows without keys, keys without rows


@gradient_mutant(
    "empty-rows-make-gradients-nan",
    requirement="GRAD-3",
    bug_class="FULLMASK",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/41508",
        "https://github.com/Xilinx/brevitas/pull/1591",
    ),
)
class EmptyRowsMakeGradientsNan(Differentiable):
    """Rows without a visible key are made zero after the softmax, and its backward pass divides 0 by 0 there."""

    def ds(self, x: Saved, do: Tensor) -> Tensor:
        total = x.p.sum(-1, keepdim=True)
        return super().ds(x, do) / total.masked_fill(total > 0, 1.0)


@gradient_mutant(
    "empty-rows-spread-their-gradient",
    requirement="GRAD-3",
    bug_class="FULLMASK",
    seen_in=("https://github.com/Dao-AILab/flash-attention/commit/c65b5106ac8098c05351d6852561b5c1eb3bc875",),
)
class EmptyRowsSpreadTheirGradient(Differentiable):
    """In the backward pass a row without a visible key weighs all keys the same."""

    def dv(self, x: Saved, do: Tensor) -> Tensor:
        S = x.p.shape[3]
        return x.p.masked_fill(x.p.sum(-1, keepdim=True) == 0, 1 / max(S, 1)).mT @ do


@gradient_mutant(
    "hidden-keys-get-a-small-gradient",
    requirement="GRAD-3",
    bug_class="FILL",
    seen_in=("https://github.com/fla-org/flash-linear-attention/pull/892",),
    also_fails={
        "GRAD-2": "the gradients of q, k and v are off by a small part",
        "GRAD-4": "that of a mask is, too",
    },
)
class HiddenKeysGetASmallGradient(Differentiable):
    """In the backward pass a hidden key has a score 15 below the largest, which leaves it a weight."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        scores = hidden(x.q @ x.k.mT * x.scale, x.mask, x.is_causal)
        floor = scores.amax(-1, keepdim=True) - 15
        p = softmax(scores.maximum(floor)) if scores.shape[3] else x.p
        return super().backward(_with_weights(x, p.masked_fill(x.p.sum(-1, keepdim=True) == 0, 0.0)), do)


# --- the mask


@gradient_mutant(
    "mask-gradient-not-summed",
    requirement="GRAD-4",
    seen_in=(
        "https://github.com/jax-ml/jax/issues/30593",
        "https://github.com/jax-ml/jax/issues/27184",
    ),
)
class MaskGradientNotSummed(Differentiable):
    """The gradient of a mask that is broadcast is that of the first batch element, head and query alone."""

    def dmask(self, x: Saved, ds: Tensor) -> Tensor:
        four = (1,) * (4 - x.mask.ndim) + tuple(x.mask.shape)
        B, H, T, S = four
        return ds[:B, :H, :T, :S].reshape(x.mask.shape)


@gradient_mutant(
    "mask-without-gradient",
    requirement="GRAD-4",
    bug_class="IGNORED",
    seen_in=("https://github.com/facebookresearch/xformers/issues/636",),
)
class MaskWithoutGradient(Differentiable):
    """A floating mask is a constant: it gets no gradient."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor = None, is_causal: bool = False
    ) -> Tensor:
        return super().__call__(q, k, v, None if mask is None else mask.detach(), is_causal)


# --- the output gradient


@gradient_mutant(
    "output-gradient-read-in-memory-order",
    requirement="GRAD-5",
    bug_class="STRIDE",
    seen_in=(
        "https://github.com/Dao-AILab/flash-attention/issues/355",
        "https://github.com/pytorch/pytorch/issues/134001",
    ),
)
class OutputGradientReadInMemoryOrder(Differentiable):
    """The output gradient is read as if it were contiguous, from its first element on."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        strides: list[int] = []
        step = 1
        for n in reversed(do.shape):
            strides.insert(0, step)
            step *= n
        held = do.untyped_storage().nbytes() // do.element_size()
        if do.is_contiguous() or do.storage_offset() + do.numel() > held:
            return super().backward(x, do)
        return super().backward(x, do.as_strided(do.shape, strides))


@gradient_mutant(
    "expanded-output-gradient-counted-once",
    requirement="GRAD-5",
    bug_class="STRIDE",
    seen_in=(
        "https://github.com/Dao-AILab/flash-attention/issues/325",
        "https://github.com/facebookresearch/xformers/pull/282",
    ),
)
class ExpandedOutputGradientCountedOnce(Differentiable):
    """Along an axis that is expanded the output gradient has one element only, and zeros after it."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        kept = do.clone()
        for axis, (stride, n) in enumerate(zip(do.stride(), do.shape, strict=True)):
            if stride == 0 and n > 1:
                kept.narrow(axis, 1, n - 1).zero_()
        return super().backward(x, kept)


@gradient_mutant(
    "output-gradient-scaled-in-place",
    requirement="GRAD-5",
    bug_class="ALIAS",
    seen_in=("https://github.com/nntrainer/nntrainer/pull/1999",),
)
class OutputGradientScaledInPlace(Differentiable):
    """The backward pass multiplies the scale into the output gradient where it lies."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gradients = super().backward(x, do.clone())
        do.mul_(x.scale)
        return gradients


# --- gradients of gradients


@gradient_mutant(
    "second-gradients-with-constant-weights",
    requirement="GRAD-6",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/58509",
        "https://github.com/pytorch/pytorch/issues/76185",
    ),
    twin=TWICE,
)
class SecondGradientsWithConstantWeights(TwiceDifferentiable):
    """The weights are kept from the forward pass: gradients of gradients take them for constants."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return super().backward(_with_weights(x, x.p.detach()), do)


@gradient_mutant(
    "second-gradients-are-zero",
    requirement="GRAD-6",
    seen_in=("https://github.com/pytorch/pytorch/issues/106789",),
    twin=TWICE,
)
class SecondGradientsAreZero(TwiceDifferentiable):
    """Gradients of gradients exist, and are zero."""

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dq, dk, dv, dmask = super().backward(x, do)
        return (*(part.detach() + 0 * part for part in (dq, dk, dv)), dmask)
