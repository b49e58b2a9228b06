"""MASK-3: a mask (B, H, T, S) is refused."""

# Seen in torchtune 0.6.1.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    forward, array = MultiHeadAttention(4, 2).forward, np.asarray
else:
    import torch
    from torch.nn import Linear
    from torchtune.modules import MultiHeadAttention

    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    layers = {name: Linear(4, 4) for name in ("q_proj", "k_proj", "v_proj", "output_proj")}
    sizes = {"embed_dim": 4, "num_heads": 2, "num_kv_heads": 2, "head_dim": 2}
    module = MultiHeadAttention(**sizes, **layers, is_causal=False).eval()

    def forward(x, xa=None, mask=None):
        """Keys come from the second argument, in self-attention too."""
        return module(x, x if xa is None else xa, mask=mask)


x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
try:
    forward(x, None, array(np.ones((1, 2, 3, 3), bool)))
except Exception as error:
    sys.exit(f"MASK-3: a mask (1, 2, 3, 3) raises: {error}")
