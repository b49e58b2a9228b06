"""The references of these tests: attention as PyTorch operations, in the dtype that a test says."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from attn_conformance.borders import TorchBorder
from attn_conformance.selftest.yardsticks.posing import Array, Posed

Tensor = Any
Side = Literal["q", "k"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor = None,
    is_causal: bool = False,
    scale: float | None = None,
    scaled: Side = "q",
) -> Tensor:
    """Softmax attention in the dtype of q, causal bottom-right, empty rows 0; scaled: the factor that scale is on."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    factor = q.shape[3] ** -0.5 if scale is None else scale
    scores = (q * factor) @ k.mT if scaled == "q" else q @ (k * factor).mT
    if mask is not None:
        scores = scores + mask if mask.is_floating_point() else scores.masked_fill(~mask, -float("inf"))
    if is_causal:
        T, S = scores.shape[2:]
        scores = scores.masked_fill(scores.new_ones(T, S).tril(S - T) == 0, -float("inf"))
    empty = (scores == -float("inf")).all(-1, keepdim=True)
    return scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0) @ v


@cache
def solved(case: Posed, computed: str, scaled: Side = "q", scale: float | None = None) -> Mapping[str, Array]:
    """The output of a case, and the gradients that it asks for, in float64.

    Computed in a dtype and rounded to the case's own, as are the gradients. scale: in place of the call's.
    """
    import torch

    border, dtype = TorchBorder(), getattr(torch, computed)
    leaves = {
        name: border.asarray(array, "cpu", requires_grad=name in case.of)
        for name, array in case.call.arrays().items()
    }
    wide = {name: x.to(dtype) if x.is_floating_point() else x for name, x in leaves.items()}
    scale = case.call.scale if scale is None else scale
    out = attention(**wide, is_causal=case.call.is_causal, scale=scale, scaled=scaled).to(leaves["q"].dtype)
    found = {"out": out}
    if case.dout is not None:
        dout = border.asarray(case.dout.values, "cpu")
        gradients = torch.autograd.grad(out, [leaves[name] for name in case.of], dout)
        found |= dict(zip(case.of, gradients, strict=True))
    return {name: border.asnumpy(x.double()) for name, x in found.items()}


def module(
    x: Array,
    xa: Array | None,
    params: Mapping[str, Array],
    n_head: int,
    mask: Array | None = None,
    causal: bool = False,
) -> Array:
    """A module's forward in float64: (B, T, n_state)."""
    border = TorchBorder()
    wide = {name: border.asarray(array, "cpu").double() for name, array in params.items()}

    def projected(part: str, tokens: Tensor) -> Tensor:
        y = tokens @ wide[f"{part}.weight"].mT
        return y if part == "key" else y + wide[f"{part}.bias"]

    queries = border.asarray(x, "cpu").double()
    source = queries if xa is None else border.asarray(xa, "cpu").double()
    tokens = (("query", queries), ("key", source), ("value", source))
    q, k, v = (projected(part, y).unflatten(2, (n_head, -1)).transpose(1, 2) for part, y in tokens)
    seen = None if mask is None else border.asarray(mask, "cpu")
    if seen is not None and seen.is_floating_point():
        seen = seen.double()
    heads = attention(q, k, v, seen, causal)
    return border.asnumpy(projected("out", heads.transpose(1, 2).flatten(2)))
