"""torchtune: `torchtune.modules.attention.MultiHeadAttention` with dropout, in evaluation."""

from parts import part
from torch import nn

from attn_reference import Claims

MultiHeadAttention = part("torchtune.modules.attention").MultiHeadAttention

NAMES = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "output_proj"}


class Evaluating:
    """The class around four linear layers."""

    border = "torch"
    claims = Claims(features=frozenset({"cross"}))

    def build(self, n_state, n_head, causal, params):
        """The class with given parameters."""
        layers = {}
        for name, layer in NAMES.items():
            parts = {
                kind: params[f"{name}.{kind}"] for kind in ("weight", "bias") if f"{name}.{kind}" in params
            }
            layers[layer] = nn.Linear(n_state, n_state, bias="bias" in parts).to(parts["weight"])
            layers[layer].load_state_dict(parts)
        sizes = {
            "embed_dim": n_state,
            "num_heads": n_head,
            "num_kv_heads": n_head,
            "head_dim": n_state // n_head,
        }
        return MultiHeadAttention(**sizes, **layers, is_causal=False, attn_dropout=0.5).eval()

    def forward(self, module, x, xa=None, mask=None):
        """One call."""
        return module(x, x if xa is None else xa)


adapter = Evaluating()
