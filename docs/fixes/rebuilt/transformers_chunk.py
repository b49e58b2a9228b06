"""transformers: the mask of several new tokens beside a cache was left out, and causality to the fused kernel."""

import torch
from torch import nn

from attn_reference import Claims


class Session:
    """A decoding."""

    def __init__(self, module, cache=None):
        self.module, self.cache = module, cache

    def step(self, x, xa=None, mask=None):
        """One call that continues this decoding."""
        y, self.cache = self.module.attend(x, self.cache)
        return y


class Decoder:
    """Causal self-attention; trusting: whether the kernel's own causality serves chunks, too."""

    border = "torch"
    claims = Claims(("float64", "float32"), features=frozenset({"causal", "cache"}))
    open = Session

    def __init__(self, trusting):
        self.trusting = trusting

    def build(self, n_state, n_head, causal, params):
        """Parameters, and how they are used."""
        return Module(n_head, causal, params, self.trusting)

    def forward(self, module, x, xa=None, mask=None):
        """One call without a cache."""
        return module.attend(x, None)[0]


class Module:
    """Projections around scaled_dot_product_attention, whose is_causal counts from the top left."""

    def __init__(self, n_head, causal, params, trusting):
        self.n_head, self.causal, self.params, self.trusting = n_head, causal, params, trusting

    def project(self, name, x):
        """The product x W^T + b."""
        return nn.functional.linear(x, self.params[f"{name}.weight"], self.params.get(f"{name}.bias"))

    def attend(self, x, past):
        """The result, and the keys and values of the past and of x."""
        q, k, v = (
            self.project(name, x).unflatten(2, (self.n_head, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        T, S = q.shape[2], k.shape[2]
        masked = self.causal and not self.trusting and 1 < T < S
        mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if masked else None
        causal = self.causal and T > 1 and mask is None
        y = nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return self.project("out", y.transpose(1, 2).flatten(2)), (k, v)


before, after = Decoder(True), Decoder(False)
