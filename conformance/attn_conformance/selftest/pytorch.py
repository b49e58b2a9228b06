"""Right kernels in PyTorch that are no controls: each departs from a requirement that is not about rounding.

PyTorch's own, of which the flash kernel on CPUs hides NaN (NUM-4), and those on CUDA serve some calls alone; and
weights as exp(score - lse), which leave the hull of the values at scores beyond 1e6, where lse no longer holds the
logarithm of the sum (NUM-2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

from attn_conformance.mutants.differentiable import hidden, widen

ROW = 8
"""Numbers of 16 bits in 16 bytes."""


def joined(q: Tensor, k: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor | None:
    """The mask and the causal rule in one, (T, S) or as the mask is: boolean, or what is added; None without either."""
    if not is_causal:
        return mask
    T, S = q.shape[2], k.shape[2]
    triangle = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    if mask is None:
        return triangle
    return mask & triangle if mask.dtype == torch.bool else mask.masked_fill(~triangle, -math.inf)


def math_kernel(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """PyTorch's scaled_dot_product_attention in separate operations."""
    return _by(SDPBackend.MATH, q, k, v, mask, is_causal)


def flash_kernel(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """PyTorch's flash kernel."""
    return _by(SDPBackend.FLASH_ATTENTION, q, k, v, mask, is_causal)


def efficient_kernel(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """PyTorch's memory-efficient kernel."""
    return _by(SDPBackend.EFFICIENT_ATTENTION, q, k, v, mask, is_causal)


def cudnn_kernel(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """The kernel of cuDNN."""
    return _by(SDPBackend.CUDNN_ATTENTION, q, k, v, mask, is_causal)


def _by(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """One backend alone; it raises RuntimeError where it does not serve the call.

    Its own triangle is asked for where it is the same as ours.
    """
    own = is_causal and mask is None and q.shape[2] == k.shape[2]
    added = None if own else joined(q, k, mask, is_causal)
    if q.is_cuda and added is not None:
        added = _aligned(added, q.dtype)
    with sdpa_kernel(backend):
        return scaled_dot_product_attention(q, k, v, attn_mask=added, is_causal=own)


def _aligned(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The same mask, added, in rows that begin at multiples of 16 bytes.

    Kernels on CUDA load 16 bytes at once. In PyTorch 2.11 some refuse other masks, and cuDNN's ends the process's CUDA.
    """
    S = mask.shape[-1]
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -math.inf)
    return pad(mask, (0, -S % ROW))[..., :S]


def lse_form(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Weights are exp(score - lse), as every flash kernel's backward pass recomputes them."""
    scores = hidden(widen(q) @ widen(k).mT / math.sqrt(q.shape[3]), mask, is_causal)
    lse = torch.logsumexp(scores, -1, keepdim=True)
    weights = torch.exp(scores - lse.masked_fill(lse == -math.inf, 0))
    out: Tensor = (weights @ widen(v)).to(q.dtype)
    return out
