"""The attention function: PyTorch's flash kernels under the rules of the specification."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from attn_flash import kernel
from attn_reference.claims import PLAIN_FEATURES, Claims
from attn_reference.errors import check_array_type, check_kernel_call, check_one_device


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale * q k^T + mask) v, over the keys that each query may see.

    q: (B, H, T, D); k: (B, Hkv, S, D); v: (B, Hkv, S, Dv), of one dtype (float64, float32, float16 or
    bfloat16), one device and any strides; H = g * Hkv, query heads g*n .. g*n + g - 1 read key head n.
    mask: (T, S) or (B, H, T, S) with each of B, H, T full or 1. bool: True = may attend. Floating, in the
    dtype of q or float32: added to the scaled scores, with its exact values; -inf forbids.
    is_causal: key j is visible to query i iff j <= i + (S - T). No T x S buffer is held.
    scale: any finite number; 1/sqrt(D) by default.

    Returns (B, H, T, Dv) in the dtype and on the device of q; inputs are never modified. A query that sees
    no key gets zeros and has gradient zero; NaN in a visible input reaches every output that depends on it;
    B, T or S may be 0. Differentiable in q, k, v and a floating mask. Autocast does not apply here.

    Raises TypeError for what is no tensor, and ValueError for every other wrong argument, a mask together
    with is_causal among them, before any work is done.
    """
    check_kernel_call(q, k, v, mask, is_causal, scale)
    check_array_type(Tensor, q=q, k=k, v=v, mask=mask)
    check_one_device(q=q, k=k, v=v, mask=mask)
    if q.numel() == 0 or v.numel() == 0:  # some kernels crash on empty inputs
        return _empty(q, k, v)
    factor = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    if not q.is_meta and torch.is_autocast_enabled(q.device.type):  # it would round a float32 mask
        with torch.autocast(q.device.type, enabled=False):
            return _attention(q, k, v, mask, is_causal, factor)
    return _attention(q, k, v, mask, is_causal, factor)


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, scale: float) -> Tensor:
    dtype, Dv = q.dtype, v.shape[3]
    if scale <= 0:  # before the scale a kernel's triangle is -inf, and -inf * 0 = NaN, -inf * -1 = inf
        q, scale = (-q, -scale) if scale < 0 else (q * 0, 1.0)
    q, k, v = _prepared(q, k, v, mask)
    if is_causal:
        out = kernel.causal(q, k, v, scale)
    elif mask is None:
        out = kernel.unmasked(q, k, v, scale)
    else:
        out = _masked(q, k, v, mask.to(q.dtype) if mask.is_floating_point() else mask, scale)
    return (out if out.shape[3] == Dv else out[..., :Dv]).to(dtype)


def _masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Empty rows are opened for the kernel and zeroed afterwards: kernels and versions differ on them."""
    is_bool = mask.dtype == torch.bool
    if q.is_cuda and kernel.differentiated(mask) and not kernel.differentiated(q, k, v):
        # Kernels keep what the backward pass needs only if q, k or v ask for it.
        q = q.detach().requires_grad_()
    largest = mask.detach().amax(dim=-1, keepdim=True)
    empty = ~largest if is_bool else largest == -math.inf
    out = kernel.dense(q, k, v, scale, mask | empty if is_bool else torch.where(empty, 0.0, mask))
    return torch.where(empty, 0.0, out)


def _prepared(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The same inputs in the form in which a kernel that holds no scores can take them."""
    if mask is not None:  # a float32 mask counts exactly: compute in float32
        dtype = torch.promote_types(q.dtype, mask.dtype)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    D, Dv, group = q.shape[3], v.shape[3], q.shape[1] // k.shape[1]
    half = q.dtype in kernel.HALF
    if q.is_cuda and group > 1 and not (half and mask is None and D == Dv <= kernel.FLASH_HEAD_SIZE):
        # Of the kernels that every version has there, flash alone takes grouped heads, and it takes no more.
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if q.is_cuda:
        D, Dv = (n + -n % kernel.unit(q) for n in (D, Dv))
    elif q.device.type == "cpu" and Dv != D:  # the kernel there knows one head size
        D = Dv = max(D, Dv)
    q, k, v = (x if x.shape[3] == n else pad(x, (0, n - x.shape[3])) for x, n in ((q, D), (k, D), (v, Dv)))
    q, k, v = (x if kernel.can_read(x) else x.clone(memory_format=torch.contiguous_format) for x in (q, k, v))
    return q, k, v


def _empty(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The sum over no keys, or for no queries: zeros of the right shape, connected to q, k and v."""
    group = q.shape[1] // k.shape[1]
    return (q @ k.repeat_interleave(group, dim=1).mT) @ v.repeat_interleave(group, dim=1)


# A function's own dictionary, so that `attention` stays a plain function.
vars(attention)["claims"] = Claims(
    devices=("cpu", "cuda"), features=PLAIN_FEATURES | {"validates", "gqa", "scale", "dv"}, arithmetic="fused"
)
