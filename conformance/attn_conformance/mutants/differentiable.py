"""A kernel in PyTorch with a backward pass of its own, right in every respect, in steps that a mutant can lie in.

Nothing here imports PyTorch before the first call: tensors bring their methods with them. Everything is computed in
float32 (float64 for float64). Tensors: q (B, H, T, D), k (B, Hkv, S, D), v (B, Hkv, S, Dv), p and ds (B, H, T, S).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

Tensor = Any


@dataclass(frozen=True, eq=False)
class Saved:
    """What the backward pass starts from.

    q, k, v: in the dtype of the computation, a key head for each query head. p: the weights. out: the result as it was
    returned. group: query heads of one key head. mask, is_causal: the arguments. needs_mask: whether mask needs a
    gradient.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    p: Tensor
    out: Tensor
    group: int
    mask: Tensor
    is_causal: bool
    needs_mask: bool

    @property
    def scale(self) -> float:
        """1/sqrt(D)."""
        return float(self.q.shape[3] ** -0.5)


class Differentiable:
    """Softmax attention. Boolean masks: True = may attend; floating ones are added; causal: bottom-right.

    twice: whether the backward pass is a function of the inputs, recomputed from them, that can be differentiated
    again; else gradients of gradients are refused.
    """

    border: ClassVar[str] = "torch"
    twice: ClassVar[bool] = False

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor = None, is_causal: bool = False
    ) -> Tensor:
        """The result (B, H, T, Dv) in the dtype of q."""
        return _function(self.twice).apply(self, q, k, v, mask, is_causal)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        """The result in the dtype of q, and the weights; k and v have a head for each query head."""
        p = self.weights(q, k, mask, is_causal)
        return (p @ v).to(q.dtype), p

    def weights(self, q: Tensor, k: Tensor, mask: Tensor, is_causal: bool) -> Tensor:
        """The softmax over visible keys, 0 in rows that see none."""
        return softmax(hidden(q @ k.mT * q.shape[3] ** -0.5, mask, is_causal))

    def backward(self, x: Saved, do: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The gradients of q, k, v and mask (None where it needs none), in the dtype of the computation."""
        do = widen(do)
        ds = self.ds(x, do)
        dmask = self.dmask(x, ds) if x.needs_mask else None
        return self.dq(x, ds), self.summed(x, self.dk(x, ds)), self.summed(x, self.dv(x, do)), dmask

    def ds(self, x: Saved, do: Tensor) -> Tensor:
        """The gradient of the scores."""
        return x.p * (do @ x.v.mT - self.row_term(x, do))

    def row_term(self, x: Saved, do: Tensor) -> Tensor:
        """D, the mean under p of the gradient of p, (B, H, T, 1)."""
        return (do * (x.p @ x.v)).sum(-1, keepdim=True)

    def dq(self, x: Saved, ds: Tensor) -> Tensor:
        """The gradient of q."""
        return x.scale * (ds @ x.k)

    def dk(self, x: Saved, ds: Tensor) -> Tensor:
        """The gradient of k, for each query head."""
        return x.scale * (ds.mT @ x.q)

    def dv(self, x: Saved, do: Tensor) -> Tensor:
        """The gradient of v, for each query head."""
        return x.p.mT @ do

    def summed(self, x: Saved, gradient: Tensor) -> Tensor:
        """The sum over the query heads that share a key head."""
        B, H, S, D = gradient.shape
        return gradient.reshape(B, H // x.group, x.group, S, D).sum(2)

    def dmask(self, x: Saved, ds: Tensor) -> Tensor:
        """The gradient of the mask, summed over the axes along which it is broadcast."""
        return ds.sum_to_size(*x.mask.shape)


class TwiceDifferentiable(Differentiable):
    """The same, where gradients have gradients."""

    twice = True


def widen(x: Tensor) -> Tensor:
    """X in float32, or float64 if it is float64."""
    return x if x.element_size() == 8 else x.float()


def hidden(scores: Tensor, mask: Tensor, is_causal: bool) -> Tensor:
    """Scores under the mask and the causal rule, -inf where a key is hidden."""
    T, S = scores.shape[2:]
    if is_causal:
        scores = scores.masked_fill(scores.new_ones(T, S).tril(S - T) == 0, -float("inf"))
    if mask is None:
        return scores
    return (
        scores + mask.to(scores.dtype)
        if mask.is_floating_point()
        else scores.masked_fill(~mask, -float("inf"))
    )


def softmax(logits: Tensor) -> Tensor:
    """Weights over keys, 0 in rows without a visible key."""
    if not logits.shape[3]:
        return logits
    peak = logits.detach().amax(-1, keepdim=True)
    grown = (logits - peak.masked_fill(peak == -float("inf"), 0.0)).exp()
    total = grown.sum(-1, keepdim=True)
    return grown / total.masked_fill(total == 0, 1.0)


@cache
def _function(twice: bool) -> Any:
    """The autograd function; its first argument is the kernel."""
    import torch

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, kernel: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, is_causal: bool
        ) -> Tensor:
            group = q.shape[1] // k.shape[1] if k.shape[1] else 1
            wide = [widen(q), *(widen(x).repeat_interleave(group, 1) for x in (k, v))]
            out, p = kernel.forward(*wide, mask, is_causal)
            out = out.to(q.dtype)
            ctx.save_for_backward(q, k, v, mask, out)
            ctx.kernel, ctx.p, ctx.is_causal, ctx.group = kernel, p, is_causal, group
            return out

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
            return pull(ctx, *grad_outputs)

    pull = _pull if twice else torch.autograd.function.once_differentiable(_pull)
    return Attention


def _pull(ctx: Any, do: Tensor) -> tuple[Any, ...]:
    """The gradients of the arguments of the autograd function."""
    q, k, v, mask, out = ctx.saved_tensors
    kernel, group = ctx.kernel, ctx.group
    wide = [widen(q), *(widen(x).repeat_interleave(group, 1) for x in (k, v))]
    p = kernel.weights(*wide[:2], mask, ctx.is_causal) if kernel.twice else ctx.p
    inputs = (wide[0], wide[1], wide[2])
    x = Saved(*inputs, p, out, group, mask, ctx.is_causal, ctx.needs_input_grad[4])
    dq, dk, dv, dmask = kernel.backward(x, do)
    dmask = None if dmask is None else dmask.to(mask.dtype)
    return None, dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dmask, None
