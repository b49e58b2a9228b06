"""The multi-head attention module: projections around the attention function, and a cache between calls."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attn_flash.attention import attention
from attn_flash.cache import check_entries, held, joined, kept_by_hooks, store
from attn_flash.projections import Linear, computing_dtype
from attn_reference.claims import MODULE_FEATURES, Claims
from attn_reference.errors import (
    check_array_type,
    check_forward_call,
    check_module_sizes,
    check_one_device,
    check_qkv_call,
)


class MultiHeadAttention(nn.Module):
    """Multi-head self- and cross-attention with the interface of the seed, on PyTorch's flash kernels.

    n_state: size of the last axis of x, xa and the result; n_head: number of heads, which divides it.
    causal: key j is visible to query i iff j <= i + (S - T), also across a cache and beside xa.
    Raises ValueError for other sizes (TypeError for what is no integer), also where PyTorch is too old.
    """

    claims: ClassVar[Claims] = Claims(
        devices=("cpu", "cuda"),
        features=MODULE_FEATURES | {"torch-module", "validates"},
        arithmetic="fused",
    )

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        check_module_sizes(n_state, n_head)
        if not hasattr(nn.functional, "scaled_dot_product_attention"):
            raise ValueError("PyTorch must have scaled_dot_product_attention, 2.0 or later")
        super().__init__()
        self.n_state = n_state
        self.n_head = n_head
        self.causal = causal
        self.query = Linear(n_state, n_state)
        self.key = Linear(n_state, n_state, bias=False)
        self.value = Linear(n_state, n_state)
        self.out = Linear(n_state, n_state)

    def forward(
        self,
        x: Tensor,
        xa: Tensor | None = None,
        mask: Tensor | None = None,
        kv_cache: MutableMapping[Any, Tensor] | None = None,
    ) -> Tensor:
        """Attention of x (B, T, n_state) to itself or to xa (B, S, n_state): (B, T, n_state).

        x and xa: one dtype (float64, float32, float16 or bfloat16) and device; weights are cast to it, and it
        is that of the result. Under autocast all of that is autocast's dtype, and x and xa may differ.
        mask: bool (True = may attend) or floating, in x's dtype or float32 (added to the scores; -inf forbids);
        (T, S), or 4-D with each of B, n_head, T full or 1. S counts all keys, cached and new.
        kv_cache: a dict, a KVCache or another mutable mapping; entries are found by `key` and `value`, are
        (B, S, n_state) and detached. Self-attention appends; cross-attention stores at its first call, and
        from then on the entry stands for xa, which is not projected. Entries may be replaced between calls.
        Forward hooks on `key` and `value` that keep the mapping themselves are left to it.

        Raises TypeError for what is no tensor or no mapping and ValueError for every other wrong argument, a
        mask in a causal module among them, before anything is projected. Whatever raises, the cache is as it
        was, unless hooks keep it.
        """
        check_array_type(Tensor, x=x, xa=xa, mask=mask)
        given, dtype = x.dtype, computing_dtype(x)
        if dtype != given:  # autocast: once for all projections
            x = x.to(dtype)
            mask = mask.float() if mask is not None and mask.dtype == given else mask
        if xa is not None:
            xa = xa.to(computing_dtype(xa))
        past = held(kv_cache, self.key, self.value, self.n_state)
        check_forward_call(
            x,
            xa,
            mask,
            n_state=self.n_state,
            n_head=self.n_head,
            causal=self.causal,
            cached=None if past is None else (past[0].shape[0], past[0].shape[1]),
        )
        check_one_device(x=x, xa=xa, mask=mask)
        if past is not None:
            check_entries(past, dtype, x)

        q, source = self.query(x), x if xa is None else xa
        entries: dict[Any, Tensor] = {}
        if kv_cache is None:
            k, v = self.key(source), self.value(source)
        elif xa is None or past is None:
            k, v, entries = self._continued(q, source, mask, kv_cache, past)
        else:
            k, v = past if not _live(q, mask) else map(_savable, past)
        result: Tensor = self.out(self.qkv_attention(q, k, v, mask))
        if entries and kv_cache is not None:
            store(kv_cache, entries)
        return result

    def qkv_attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """What lies between the projections: q (B, T, n_state), k and v (B, S, n_state) to (B, T, n_state).

        Everything else as in `forward`, except that autocast does not apply here.
        """
        check_array_type(Tensor, q=q, k=k, v=v, mask=mask)
        check_qkv_call(q, k, v, mask, n_state=self.n_state, n_head=self.n_head, causal=self.causal)
        heads = (self.n_head, self.n_state // self.n_head)
        q, k, v = (x.view(*x.shape[:2], *heads).transpose(1, 2) for x in (q, k, v))
        return attention(q, k, v, mask, is_causal=bool(self.causal)).transpose(1, 2).flatten(2)

    def _continued(
        self,
        q: Tensor,
        source: Tensor,
        mask: Tensor | None,
        cache: MutableMapping[Any, Tensor],
        past: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, dict[Any, Tensor]]:
        """The keys and values that q attends to, past and new, and the entries to store for them."""
        new = {projection: projection(source) for projection in (self.key, self.value)}
        live = _live(q, mask, *new.values())
        whole, entries = [], {}
        for (projection, fresh), old in zip(new.items(), past or (None, None), strict=True):
            if kept_by_hooks(cache, projection, old, fresh, source.shape[1]):
                whole.append(fresh)
            else:
                joint, entries[projection] = joined(cache, projection, old, fresh, live)
                whole.append(joint)
        k, v = whole
        return k, v, entries


def _live(*tensors: Tensor | None) -> bool:
    """Whether autograd will save what is computed with these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _savable(entry: Tensor) -> Tensor:
    """Autograd saves no tensor that was made in inference mode."""
    return entry.clone() if entry.is_inference() else entry
