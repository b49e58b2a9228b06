"""Whisper: keys and values in the cache were looked up with a default, which Python computes before it looks."""

import torch
from torch import nn


class Attention(nn.Module):
    """Multi-head attention with the interface of the specification, without a mask."""

    def __init__(self, n_state, n_head, causal=False):
        super().__init__()
        self.n_head, self.causal = n_head, causal
        self.query, self.value, self.out = (nn.Linear(n_state, n_state) for _ in range(3))
        self.key = nn.Linear(n_state, n_state, bias=False)

    def keys_and_values(self, source, cross, cache):
        """Of cross-attention those in the cache, where there are any; of self-attention also the new ones."""
        if cross:
            return self.stored(source, cache)
        pair = self.key(source), self.value(source)
        if self.key in cache:
            pair = tuple(
                torch.cat(both, 1) for both in zip((cache[self.key], cache[self.value]), pair, strict=True)
            )
        cache[self.key], cache[self.value] = pair
        return pair

    def forward(self, x, xa=None, mask=None, kv_cache=None):
        """(B, T, n_state)."""
        cache = {} if kv_cache is None else kv_cache
        k, v = self.keys_and_values(x if xa is None else xa, xa is not None, cache)
        q, k, v = (heads.unflatten(2, (self.n_head, -1)).transpose(1, 2) for heads in (self.query(x), k, v))
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Eager(Attention):
    """dict.get."""

    def stored(self, xa, cache):
        """The entries, or else projections, which are made in any case."""
        k, v = cache.get(self.key, self.key(xa)), cache.get(self.value, self.value(xa))
        cache[self.key], cache[self.value] = k, v
        return k, v


class Tested(Attention):
    """A test."""

    def stored(self, xa, cache):
        """The entries; projections where there are none."""
        if self.key not in cache:
            cache[self.key], cache[self.value] = self.key(xa), self.value(xa)
        return cache[self.key], cache[self.value]


before, after = Eager, Tested
