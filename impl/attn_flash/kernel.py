"""PyTorch's scaled_dot_product_attention, called only in the ways that all of its kernels serve rightly."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor
from torch.backends.cuda import cudnn_sdp_enabled, enable_cudnn_sdp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad, scaled_dot_product_attention

# Without a mask and with fewer keys than one vector register holds numbers, the CPU kernel takes a row of
# NaN scores for an empty row and returns 0. No register is wider than 64 floats (SVE, 2048 bits).
WIDEST_VECTOR = 64

# Query rows per call where the queries are cut into strips: the fastest of 64 to 512 on CPU.
STRIP = 256

# The kernel on CPU adds the gradients of k and v up in the dtype of k and v, block by block of queries: in these
# dtypes the small shares of many blocks are rounded away. Where gradients are asked for, float32 takes their place.
HALF = (torch.float16, torch.bfloat16)

# The largest that the flash kernel on CUDA takes.
FLASH_HEAD_SIZE = 256

# Kernels on CUDA load this many bytes at once, from multiples of it; other addresses end the process's CUDA.
LOAD = 16

# PyTorch prefers cuDNN's kernel on Hopper and later. In PyTorch 2.11 with cuDNN 9.19 it computes wrong gradients
# from an incoming gradient that is a slice, NaN gradients where all scores of a row are near -100, and moves what
# a boolean mask forbids by no more than -65504.
ALL_BUT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

_choosing = threading.RLock()  # which kernels are allowed is one setting for all threads


def unit(x: Tensor) -> int:
    """How many of its numbers a kernel loads at once."""
    return LOAD // x.element_size() if x.is_cuda else 1


def can_read(x: Tensor) -> bool:
    """Whether kernels can read x where it lies."""
    if x.stride(-1) != 1:
        return False
    steps = x.stride()[:-1] if torch.compiler.is_compiling() else (x.storage_offset(), *x.stride()[:-1])
    return all(n % unit(x) == 0 for n in steps)  # torch.compile cannot trace the offset


def dense(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """One call of the kernel. No row of the mask may be empty; is_causal only for T = S."""
    T, S = q.shape[2], k.shape[2]
    if mask is None and S < WIDEST_VECTOR and q.device.type == "cpu":
        mask = _lower_right(T, S, q.device) if is_causal else q.new_zeros(()).expand(T, S)
        is_causal = False
    return _call(q, k, v, scale, mask, is_causal)


def unmasked(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Every key is visible to every query. No T x S buffer is held."""
    return _strips(q, k, v, scale) if _holds_scores(q) else dense(q, k, v, scale)


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Key j is visible to query i iff j <= i + (S - T). No T x S buffer is held, whatever T and S."""
    T, S = q.shape[2], k.shape[2]
    if T > S:  # the first T - S queries see nothing
        return pad(causal(q[:, :, T - S :], k, v, scale), (0, 0, T - S, 0))
    if T == 1:
        return dense(q, k, v, scale)
    if _holds_scores(q):
        return _strips(q, k, v, scale, is_causal=True)
    if T == S:
        return dense(q, k, v, scale, is_causal=True)
    if q.is_cuda and not torch.compiler.is_compiling():  # torch.compile cannot trace the bias object
        from torch.nn.attention.bias import causal_lower_right  # brings torch._dynamo: a second to import

        triangle = causal_lower_right(T, S)  # a kernel's own triangle where one serves the inputs
        return _call(q, k, v, scale, triangle)
    return _strips(q, k, v, scale, is_causal=True)


def _holds_scores(q: Tensor) -> bool:
    """Whether no kernel serves q but the one that holds all scores."""
    return q.is_cuda and q.dtype == torch.float64


def _strips(q: Tensor, k: Tensor, v: Tensor, scale: float, is_causal: bool = False) -> Tensor:
    """A call for each STRIP queries."""
    T, S = q.shape[2], k.shape[2]
    strips = []
    for start in range(0, T, STRIP):
        stop = min(start + STRIP, T)
        seen = S - T + stop if is_causal else S
        triangle = _lower_right(stop - start, seen, q.device) if is_causal else None
        strips.append(dense(q[:, :, start:stop], k[:, :, :seen], v[:, :, :seen], scale, triangle))
    return torch.cat(strips, dim=2)


def _call(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """scaled_dot_product_attention by any kernel that is allowed but cuDNN's."""
    if q.device.type == "cpu" and q.dtype in HALF and differentiated(q, k, v, mask):
        q32, k32, v32 = q.float(), k.float(), v.float()
        mask32 = mask.float() if mask is not None and mask.is_floating_point() else mask
        return _call(q32, k32, v32, scale, mask32, is_causal).to(q.dtype)
    options: dict[str, Any] = {
        "attn_mask": mask,
        "is_causal": is_causal,
        "scale": scale,
        "enable_gqa": q.shape[1] != k.shape[1],
    }
    if not q.is_cuda:
        return scaled_dot_product_attention(q, k, v, **options)
    if torch.compiler.is_compiling():
        with sdpa_kernel(ALL_BUT_CUDNN):
            return scaled_dot_product_attention(q, k, v, **options)
    with _choosing:
        allowed = cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
        enable_cudnn_sdp(False)
        try:
            return scaled_dot_product_attention(q, k, v, **options)
        finally:
            enable_cudnn_sdp(allowed)


def differentiated(*tensors: Tensor | None) -> bool:
    """Whether a backward pass may follow."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _lower_right(T: int, S: int, device: torch.device) -> Tensor:
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)
