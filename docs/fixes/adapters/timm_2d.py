"""timm: `timm.layers.attention2d.Attention2d`, self-attention between pixels, where the fused kernel is off."""

import torch
from parts import part

from attn_reference import Claims

Attention2d = part("timm.layers.attention2d").Attention2d


class Pixels:
    """A sequence is an image one pixel wide, (B, n_state, T, 1)."""

    border = "torch"
    claims = Claims(("float64", "float32"), features=frozenset())

    def build(self, n_state, n_head, causal, params):
        """The class with given parameters: convolutions of one pixel are linear layers."""
        module = Attention2d(n_state, n_state, n_head).to(params["query.weight"]).eval()
        module.fused_attn = False
        no_bias = torch.zeros_like(params["query.bias"])
        with torch.no_grad():
            weight = torch.cat([params[f"{name}.weight"] for name in ("query", "key", "value")])
            module.qkv.weight.copy_(weight[:, :, None, None])
            module.qkv.bias.copy_(torch.cat([params["query.bias"], no_bias, params["value.bias"]]))
            module.proj.weight.copy_(params["out.weight"][:, :, None, None])
            module.proj.bias.copy_(params["out.bias"])
        return module

    def forward(self, module, x, xa=None, mask=None):
        """One call."""
        return module(x.transpose(1, 2).unsqueeze(3)).squeeze(3).transpose(1, 2)


adapter = Pixels()
