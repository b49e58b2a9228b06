"""The plain module as a torch.nn.Module, right in every respect. It imports PyTorch: `hosts.py` loads it to build one.

Everything is computed in float32 (float64 for float64) and rounded to x's dtype between the steps. Tensors: x and xa
(B, L, n_state); entries of a cache likewise, under the projections `key` and `value`.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from attn_conformance.mutants.differentiable import hidden, softmax, widen
from attn_reference.errors import (
    cached_entries,
    check_array_type,
    check_forward_call,
    check_module_sizes,
    check_one_dtype,
    check_qkv_call,
)

Cache: TypeAlias = MutableMapping[Any, Tensor] | None
Pair: TypeAlias = tuple[Tensor, Tensor]


class Projection(nn.Linear):
    """A linear layer whose weight and bias are cast to x's dtype, which is that of the result."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  torch's name
        """(B, L, n_state) to (B, L, n_state)."""
        y: Tensor = nn.functional.linear(widen(input), widen(self.weight.to(input.dtype)))
        y = y if self.bias is None else y + widen(self.bias.to(input.dtype))
        return y.to(input.dtype)


class InPyTorch(nn.Module):
    """Multi-head attention with the interface of the seed."""

    def __init__(self, n_state: int, n_head: int, causal: bool = False) -> None:
        check_module_sizes(n_state, n_head)
        super().__init__()
        self.n_state, self.n_head, self.causal = n_state, n_head, causal
        self.query = Projection(n_state, n_state)
        self.key = Projection(n_state, n_state, bias=False)
        self.value = Projection(n_state, n_state)
        self.out = Projection(n_state, n_state)

    def forward(
        self, x: Tensor, xa: Tensor | None = None, mask: Tensor | None = None, kv_cache: Cache = None
    ) -> Tensor:
        """The result (B, T, n_state) in x's dtype; kv_cache is updated in place, by hooks or by the module."""
        check_array_type(Tensor, x=x, xa=xa, mask=mask)
        past: Pair | None = cached_entries(kv_cache, self.key, self.value, self.n_state)
        cached = None if past is None else (past[0].shape[0], past[0].shape[1])
        check_forward_call(
            x, xa, mask, n_state=self.n_state, n_head=self.n_head, causal=self.causal, cached=cached
        )
        if past is not None:
            check_one_dtype(x=x, **{"kv_cache[key]": past[0], "kv_cache[value]": past[1]})
        q = self.query(x)
        if xa is not None and past is not None:
            k, v = past
        else:
            k, v = self.continued(x if xa is None else xa, kv_cache, past)
        y: Tensor = self.out(self.attend(q, k, v, mask))
        return y

    def continued(self, source: Tensor, kv_cache: Cache, past: Pair | None) -> Pair:
        """Keys and values of what is cached and of the source, which are stored unless hooks have done that."""
        pair = self.pair(source)
        if kv_cache is None or self.kept_by_hooks(kv_cache, pair):
            return pair
        if past is not None:
            pair = torch.cat([past[0], pair[0]], 1), torch.cat([past[1], pair[1]], 1)
        kv_cache[self.key], kv_cache[self.value] = (x.detach() for x in pair)
        return pair

    def pair(self, source: Tensor) -> Pair:
        """What the projections to keys and values give."""
        return self.key(source), self.value(source)

    def kept_by_hooks(self, kv_cache: MutableMapping[Any, Tensor], pair: Pair) -> bool:
        """Whether forward hooks on the projections have stored what these returned."""
        return kv_cache.get(self.key) is pair[0]

    def qkv_attention(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """What lies between the projections: (B, T, n_state)."""
        check_array_type(Tensor, q=q, k=k, v=v, mask=mask)
        check_qkv_call(q, k, v, mask, n_state=self.n_state, n_head=self.n_head, causal=self.causal)
        return self.attend(q, k, v, mask)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Split, attend, merge: (B, T, n_state)."""
        heads = (self.n_head, self.n_state // self.n_head)
        q, k, v = (x.reshape(*x.shape[:2], *heads).transpose(1, 2) for x in (q, k, v))
        with torch.autocast(q.device.type, enabled=False):
            return self.core(q, k, v, mask).transpose(1, 2).flatten(2)

    def core(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention on split heads, (B, H, T, D)."""
        scores = widen(q) @ widen(k).mT * q.shape[3] ** -0.5
        out: Tensor = (softmax(hidden(scores, mask, self.causal)) @ widen(v)).to(q.dtype)
        return out
