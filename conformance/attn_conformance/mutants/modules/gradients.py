"""Lies about the gradients of modules: the result is right, and what flows back is not."""

# ruff: noqa: D102  # what is overridden is documented in the plain module

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from attn_conformance.mutants import Mutant, register
from attn_conformance.mutants.differentiable import Tensor, TwiceDifferentiable
from attn_conformance.mutants.gradients import (
    EmptyRowsMakeGradientsNan,
    EmptyRowsSpreadTheirGradient,
    ExpandedOutputGradientCountedOnce,
    MaskWithoutGradient,
    OutputGradientScaledInPlace,
    RowTermMissing,
    SecondGradientsWithConstantWeights,
)
from attn_conformance.mutants.modules.differentiable import DifferentiableModule, Handle

M = TypeVar("M", bound=type[DifferentiableModule])


class TwiceDifferentiableModule(DifferentiableModule):
    """The right module whose gradients have gradients."""

    kernel = TwiceDifferentiable()


RIGHT, TWICE = DifferentiableModule(), TwiceDifferentiableModule()
"""The twins."""


def gradient_mutant(
    name: str,
    *,
    requirement: str,
    bug_class: str = "GRAD",
    seen_in: tuple[str, ...],
    twin: DifferentiableModule = RIGHT,
    also_fails: Mapping[str, str] | None = None,
    least: Mapping[str, int] | None = None,
) -> Callable[[M], M]:
    """Register a module with wrong gradients."""

    def decorate(cls: M) -> M:
        module = cls()
        module.__doc__ = cls.__doc__
        register(
            Mutant(
                name,
                "module",
                module,
                twin,
                requirement,
                bug_class,
                seen_in,
                cls.claims,
                dict(also_fails or {}),
                dict(least or {}),
            )
        )
        return cls

    return decorate


DROPPED = ("https://github.com/huggingface/candle/pull/3724",)
"""Gradients that end at an operation without a backward pass, silently."""

THROUGH_FORWARD = {"GRAD-1": "forward has the same kernel"}

# --- forward


@gradient_mutant("bias-of-queries-without-gradient", requirement="GRAD-1", seen_in=DROPPED)
class BiasOfQueriesWithoutGradient(DifferentiableModule):
    """The bias of the query projection is used, and detached: it never learns."""

    def parameter(self, handle: Handle, name: str) -> Tensor:
        parameter = super().parameter(handle, name)
        return parameter.detach() if name == "query.bias" else parameter


@gradient_mutant("values-detached-from-their-source", requirement="GRAD-1", seen_in=DROPPED)
class ValuesDetachedFromTheirSource(DifferentiableModule):
    """The gradient of x (of xa, in cross-attention) lacks what flows through the values."""

    def projected(self, handle: Handle, x: Tensor, src: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, _ = super().projected(handle, x, src)
        return q, k, self.project(handle, "value", src.detach())


@gradient_mutant(
    "weights-cast-outside-the-graph",
    requirement="GRAD-1",
    bug_class="PREC",
    seen_in=DROPPED,
)
class WeightsCastOutsideTheGraph(DifferentiableModule):
    """Weights held in another dtype than x are copied to x's: the copies get the gradient, and are thrown away."""

    def project(self, handle: Handle, name: str, x: Tensor) -> Tensor:
        if handle.params[f"{name}.weight"].dtype == x.dtype:
            return super().project(handle, name, x)
        copies = Handle(handle.n_state, handle.n_head, handle.causal)
        self.load(copies, {key: param.to(x.dtype) for key, param in handle.params.items()})
        return super().project(copies, name, x)


# --- qkv_attention, by the kernel inside


@gradient_mutant(
    "row-term-missing-in-a-module",
    requirement="GRAD-2",
    seen_in=("https://github.com/pjreddie/darknet/pull/96",),
    also_fails={**THROUGH_FORWARD, "GRAD-4": "the gradient of a mask is that of the scores"},
)
class RowTermMissingInAModule(DifferentiableModule):
    """D, the row's mean of the gradient of p, is not subtracted: dv is right, dq and dk are not (S > 1)."""

    kernel = RowTermMissing()


@gradient_mutant("values-detached-in-qkv-attention", requirement="GRAD-2", seen_in=DROPPED)
class ValuesDetachedInQkvAttention(DifferentiableModule):
    """Called by itself, qkv_attention gives the values no gradient."""

    def attention(self, handle: Handle, q: Tensor, k: Tensor, v: Tensor, mask: Tensor = None) -> Tensor:
        return super().attention(handle, q, k, v.detach(), mask)


@gradient_mutant(
    "empty-rows-make-gradients-of-a-module-nan",
    requirement="GRAD-3",
    bug_class="FULLMASK",
    seen_in=("https://github.com/pytorch/pytorch/issues/41508",),
)
class EmptyRowsMakeGradientsOfAModuleNan(DifferentiableModule):
    """One query without a visible key makes the gradients of all weights NaN."""

    kernel = EmptyRowsMakeGradientsNan()


@gradient_mutant(
    "empty-rows-of-a-module-spread-their-gradient",
    requirement="GRAD-3",
    bug_class="FULLMASK",
    seen_in=("https://github.com/Dao-AILab/flash-attention/commit/c65b5106ac8098c05351d6852561b5c1eb3bc875",),
)
class EmptyRowsOfAModuleSpreadTheirGradient(DifferentiableModule):
    """In the backward pass a row without a visible key weighs all keys the same."""

    kernel = EmptyRowsSpreadTheirGradient()


@gradient_mutant(
    "mask-of-a-module-without-gradient",
    requirement="GRAD-4",
    bug_class="IGNORED",
    seen_in=("https://github.com/facebookresearch/xformers/issues/636",),
)
class MaskOfAModuleWithoutGradient(DifferentiableModule):
    """A floating mask is a constant: it gets no gradient."""

    kernel = MaskWithoutGradient()


@gradient_mutant(
    "expanded-output-gradient-of-a-module-counted-once",
    requirement="GRAD-5",
    bug_class="STRIDE",
    seen_in=("https://github.com/Dao-AILab/flash-attention/issues/325",),
)
class ExpandedOutputGradientOfAModuleCountedOnce(DifferentiableModule):
    """Along an axis that is expanded the output gradient of qkv_attention has one element only, and zeros after it."""

    kernel = ExpandedOutputGradientCountedOnce()


@gradient_mutant(
    "output-gradient-of-a-module-scaled-in-place",
    requirement="GRAD-5",
    bug_class="ALIAS",
    seen_in=("https://github.com/nntrainer/nntrainer/pull/1999",),
)
class OutputGradientOfAModuleScaledInPlace(DifferentiableModule):
    """The backward pass multiplies the scale into the output gradient where it lies."""

    kernel = OutputGradientScaledInPlace()


@gradient_mutant(
    "second-gradients-of-a-module-with-constant-weights",
    requirement="GRAD-6",
    seen_in=("https://github.com/pytorch/pytorch/issues/58509",),
    twin=TWICE,
)
class SecondGradientsOfAModuleWithConstantWeights(DifferentiableModule):
    """The weights are kept from the forward pass: gradients of gradients take them for constants."""

    kernel = SecondGradientsWithConstantWeights()


# --- a path of forward's own


@gradient_mutant(
    "empty-rows-make-gradients-of-forward-nan",
    requirement="GRAD-3",
    bug_class="FULLMASK",
    seen_in=(
        "https://github.com/pytorch/pytorch/issues/41508",
        "https://github.com/Xilinx/brevitas/pull/1591",
    ),
)
class EmptyRowsMakeGradientsOfForwardNan(DifferentiableModule):
    """Forward has a kernel of its own, by which one query without a visible key makes all gradients NaN."""

    def forward(self, handle: Handle, x: Tensor, xa: Tensor = None, mask: Tensor = None) -> Tensor:
        return EmptyRowsMakeGradientsOfAModuleNan().forward(handle, x, xa, mask)


@gradient_mutant(
    "mask-of-forward-without-gradient",
    requirement="GRAD-4",
    bug_class="IGNORED",
    seen_in=(
        "https://github.com/facebookresearch/xformers/issues/636",
        "https://github.com/jax-ml/jax/issues/30593",
    ),
)
class MaskOfForwardWithoutGradient(DifferentiableModule):
    """Forward converts a floating mask outside the graph: it gets no gradient there."""

    def forward(self, handle: Handle, x: Tensor, xa: Tensor = None, mask: Tensor = None) -> Tensor:
        return super().forward(handle, x, xa, None if mask is None else mask.detach())


@gradient_mutant(
    "output-gradient-flattened-by-a-view",
    requirement="GRAD-5",
    bug_class="STRIDE",
    seen_in=(
        "https://github.com/NVIDIA/apex/pull/1573",
        "https://github.com/flagos-ai/FlagGems/issues/5379",
    ),
)
class OutputGradientFlattenedByAView(DifferentiableModule):
    """The backward pass of the out projection takes the output gradient for a matrix by a view, which may raise."""

    def forward(self, handle: Handle, x: Tensor, xa: Tensor = None, mask: Tensor = None) -> Tensor:
        y = super().forward(handle, x, xa, mask)
        if y.requires_grad:
            y.register_hook(lambda dout: dout.view(-1, handle.n_state).view_as(dout))
        return y
