"""Somebody's attention, and all that it takes to judge it: attn-conformance run examples/adapter.py:adapter."""

import torch
from torch import nn

from attn_reference import Claims


class PackedAttention(nn.Module):
    """Causal self-attention with packed projections: past keys and values go in, present ones come out."""

    def __init__(self, width, heads, causal=True):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, past=None):
        """The output, and the keys and values of the past and of x."""
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, dim=2))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        T, S = q.shape[2], k.shape[2]
        visible = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T) if self.causal else None
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.proj(y.transpose(1, 2).flatten(2)), (k, v)


class Session:
    """A decoding: its cache is the pair that the last step returned."""

    def __init__(self, module, cache=None):
        self.module, self.cache = module, cache

    def step(self, x, xa=None, mask=None):
        """One call that continues this decoding."""
        y, self.cache = self.module(x, self.cache)
        return y


class Adapter:
    """PackedAttention as the suite calls it."""

    border = "torch"
    claims = Claims(features=frozenset({"causal", "cache"}))
    open = Session

    def build(self, n_state, n_head, causal, params):
        """A module with given parameters; the softmax cancels a bias of the keys."""
        module = PackedAttention(n_state, n_head, causal).to(params["query.weight"]).eval()
        weights = torch.cat([params[f"{name}.weight"] for name in ("query", "key", "value")])
        bias = torch.cat([params["query.bias"], torch.zeros_like(params["query.bias"]), params["value.bias"]])
        out = {"proj.weight": params["out.weight"], "proj.bias": params["out.bias"]}
        module.load_state_dict({"qkv.weight": weights, "qkv.bias": bias, **out})
        return module

    def forward(self, module, x, xa=None, mask=None):
        """One call without a cache."""
        return module(x)[0]


adapter = Adapter()
