"""Slow kernels around scaled_dot_product_attention."""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attn_conformance.bench.workloads import Workload
from attn_conformance.slowdowns import slowdown

PLAIN = ("causal", "cross")
PADDED = (*PLAIN, "bool-mask")

LONGER = 1.06
"""What a call that is held up takes, in multiples of its own time on a CPU: a slowdown that has to be seen."""

EXTRA = 20
"""One head in so many is computed twice."""

CPU = Workload("forward", 1, 8, 512, 512, 64, "float32")
CAUSAL = Workload("forward", 1, 8, 512, 512, 64, "float32", is_causal=True)
TWENTY = Workload("forward", 1, 20, 256, 256, 64, "float32", is_causal=True)
SHORT = Workload("forward", 2, 8, 128, 128, 64, "float32", is_causal=True)
PADDING = Workload("padded", 2, 8, 256, 256, 64, "float32")

CUDA = Workload("forward", 4, 16, 2048, 2048, 128, "bfloat16", device="cuda")
CUDA_CAUSAL = Workload("forward", 4, 16, 4096, 4096, 128, "bfloat16", is_causal=True, device="cuda")
CUDA_TWENTY = Workload("forward", 16, 20, 4096, 4096, 64, "bfloat16", is_causal=True, device="cuda")
CUDA_SHORT = Workload("forward", 4, 16, 256, 256, 64, "bfloat16", is_causal=True, device="cuda")
CUDA_WAITING = Workload("forward", 8, 16, 1024, 1024, 64, "bfloat16", is_causal=True, device="cuda")
"""Short enough that waiting shows, and so long that it does not scatter by more than a few per cent of it."""

CUDA_PADDING = Workload("padded", 8, 16, 2048, 2048, 128, "bfloat16", device="cuda")


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
    """Attention with a boolean mask or a triangle at the lower right; rows that see nothing give zeros."""
    if is_causal and q.shape[2] != k.shape[2]:
        mask, is_causal = None if q.shape[2] == 1 else triangle(q, k), False
    if mask is None:
        return scaled_dot_product_attention(q, k, v, is_causal=is_causal)
    some = mask.any(-1, keepdim=True)  # kernels differ on rows without any
    return torch.where(some, scaled_dot_product_attention(q, k, v, mask | ~some), 0.0)


def triangle(q: Tensor, k: Tensor) -> Tensor:
    """Which keys each query may see, (T, S)."""
    T, S = q.shape[2], k.shape[2]
    return torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)


def right(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Right: one call of PyTorch's kernel, whichever it chooses."""
    return attend(q, k, v, mask, is_causal)


@slowdown("a-head-in-twenty-twice", twin=right, features=PLAIN, cpu=TWENTY, cuda=CUDA_TWENTY)
def a_head_in_twenty_twice(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """For each twenty heads, 21 are computed."""
    n = -(-q.shape[1] // EXTRA)
    attend(q[:, :n], k[:, :n], v[:, :n], mask, is_causal)
    return attend(q, k, v, mask, is_causal)


@slowdown("scores-held", twin=right, features=PADDED, cpu=CPU, cuda=CUDA)
def scores_held(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """The kernel that holds all scores is forced where another would not."""
    with sdpa_kernel(SDPBackend.MATH):
        return attend(q, k, v, mask, is_causal)


@slowdown("triangle-not-skipped", twin=right, features=PLAIN, cpu=CAUSAL, cuda=CUDA_CAUSAL)
def triangle_not_skipped(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """Causality is handed over as a mask, so that scores are computed of keys that nobody sees."""
    return attend(q, k, v, triangle(q, k) if is_causal else mask, False)


@slowdown("mask-expanded", twin=right, features=PADDED, cpu=PADDING, cuda=CUDA_PADDING)
def mask_expanded(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """A mask that would broadcast is copied to (B, H, T, S)."""
    if mask is not None:
        mask = mask.expand(*q.shape[:3], k.shape[2]).contiguous()
    return attend(q, k, v, mask, is_causal)


@slowdown("held-up", twin=right, features=PADDED, cpu=CAUSAL, cuda=CUDA_WAITING)
def held_up(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """It waits for its own result on CUDA, and on a CPU spins for a few per cent of its time.

    There is nothing to be awaited on a CPU, and a sleep would not do: the clock of the thread stands still meanwhile.
    """
    begun = time.thread_time_ns()
    out = attend(q, k, v, mask, is_causal)
    if out.is_cuda:
        torch.cuda.synchronize()
        return out
    until = begun + LONGER * (time.thread_time_ns() - begun)
    while time.thread_time_ns() < until:
        pass
    return out


@slowdown("computed-in-float64", twin=right, features=PADDED, cpu=SHORT, cuda=CUDA_SHORT)
def computed_in_float64(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    """All is silently computed in float64 and rounded in the end."""
    return attend(q.double(), k.double(), v.double(), mask, is_causal).to(q.dtype)
