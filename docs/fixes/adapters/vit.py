"""vit-pytorch: `vit_pytorch.vit_pytorch.Attention`, self-attention without a bias of queries, keys and values."""

import torch
from torch import nn
from vit_pytorch.vit_pytorch import Attention

from attn_reference import Claims


class Vit:
    """The class, its packed layer given the biases that it leaves out; the softmax cancels one of the keys."""

    border = "torch"
    claims = Claims(features=frozenset(), arithmetic="eager")

    def build(self, n_state, n_head, causal, params):
        """The class with given parameters."""
        module = Attention(n_state, heads=n_head, dim_head=n_state // n_head).to(params["query.weight"])
        no_bias = torch.zeros_like(params["query.bias"])
        weight = torch.cat([params[f"{name}.weight"] for name in ("query", "key", "value")])
        module.to_qkv.weight = nn.Parameter(weight)
        module.to_qkv.bias = nn.Parameter(torch.cat([params["query.bias"], no_bias, params["value.bias"]]))
        module.to_out[0].load_state_dict({kind: params[f"out.{kind}"] for kind in ("weight", "bias")})
        return module.eval()

    def forward(self, module, x, xa=None, mask=None):
        """One call."""
        return module(x)


adapter = Vit()
