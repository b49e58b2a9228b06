"""flash-attention: the backward pass read the output by the strides of its gradient."""

import torch

from attn_reference import Claims


class Attention(torch.autograd.Function):
    """Attention without a mask, its backward pass by hand; strided: whether o is read by the strides of dout."""

    @staticmethod
    def forward(ctx, q, k, v, strided):
        """(B, H, T, D)."""
        ctx.scale, ctx.strided = q.shape[-1] ** -0.5, strided
        p = (ctx.scale * q @ k.mT).softmax(-1)
        o = p @ v
        ctx.save_for_backward(q, k, v, p, o)
        return o

    @staticmethod
    def backward(ctx, dout):
        """Those of q, k and v."""
        q, k, v, p, o = ctx.saved_tensors
        seen = o.as_strided(o.shape, dout.stride()) if ctx.strided else o
        delta = (dout * seen).sum(-1, keepdim=True)
        ds = p * (dout @ v.mT - delta)
        return ctx.scale * ds @ k, ctx.scale * ds.mT @ q, p.mT @ dout, None


def before(q, k, v):
    """One set of strides for both."""
    return Attention.apply(q, k, v, True)


def after(q, k, v):
    """A set for each."""
    return Attention.apply(q, k, v, False)


before.claims = after.claims = Claims(("float64", "float32"), features=frozenset({"gradients", "cross"}))
