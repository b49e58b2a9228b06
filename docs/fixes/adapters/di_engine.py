"""DI-engine: `ding.torch_utils.network.transformer.Attention`, self-attention with packed projections."""

import torch
from parts import part
from torch import nn

from attn_reference import Claims

Attention = part("ding.torch_utils.network.transformer").Attention


class DiEngine:
    """Boolean masks, True = may attend, broadcast to (B, H, T, T)."""

    border = "torch"
    claims = Claims(("float32",), features=frozenset({"bool-mask"}))

    def build(self, n_state, n_head, causal, params):
        """The class with given parameters; the softmax cancels a bias of the keys."""
        module = Attention(n_state, n_state // n_head, n_state, n_head, nn.Identity())
        no_bias = torch.zeros_like(params["query.bias"])
        with torch.no_grad():
            packed, out = module.attention_pre[0], module.project[0]
            packed.weight.copy_(torch.cat([params[f"{name}.weight"] for name in ("query", "key", "value")]))
            packed.bias.copy_(torch.cat([params["query.bias"], no_bias, params["value.bias"]]))
            out.weight.copy_(params["out.weight"])
            out.bias.copy_(params["out.bias"])
        return module.eval()

    def forward(self, module, x, xa=None, mask=None):
        """One call."""
        return module(x, mask)


adapter = DiEngine()
