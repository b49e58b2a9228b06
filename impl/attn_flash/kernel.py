"""PyTorch's scaled_dot_product_attention, called only in the ways that all of its kernels serve rightly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import pad, scaled_dot_product_attention

# Without a mask and with fewer keys than one vector register holds numbers, the CPU kernel takes a row of
# NaN scores for an empty row and returns 0. No register is wider than 64 floats (SVE, 2048 bits).
WIDEST_VECTOR = 64

# Query rows per call where the triangle is cut into strips: the fastest of 64 to 512 on CPU.
STRIP = 256


def dense(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """One call of the kernel. No row of the mask may be empty; is_causal only for T = S."""
    T, S = q.shape[2], k.shape[2]
    if mask is None and S < WIDEST_VECTOR and q.device.type == "cpu":
        mask = _lower_right(T, S, q.device) if is_causal else q.new_zeros(()).expand(T, S)
        is_causal = False
    return scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Key j is visible to query i iff j <= i + (S - T). No T x S buffer is held, whatever T and S."""
    T, S = q.shape[2], k.shape[2]
    if T > S:  # the first T - S queries see nothing
        return pad(dense(q[:, :, T - S :], k, v, scale, is_causal=True), (0, 0, T - S, 0))
    if T == 1:
        return dense(q, k, v, scale)
    if T == S:
        return dense(q, k, v, scale, is_causal=True)
    if q.is_cuda and not torch.compiler.is_compiling():  # torch.compile cannot trace the bias object
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=causal_lower_right(T, S),  # a kernel's own triangle where one serves the inputs
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
    strips = []
    for start in range(0, T, STRIP):
        stop = min(start + STRIP, T)
        seen = S - T + stop
        triangle = _lower_right(stop - start, seen, q.device)
        strips.append(dense(q[:, :, start:stop], k[:, :, :seen], v[:, :, :seen], scale, triangle))
    return torch.cat(strips, dim=2)


def _lower_right(T: int, S: int, device: torch.device) -> Tensor:
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
