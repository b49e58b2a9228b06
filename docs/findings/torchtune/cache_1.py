"""CACHE-1: with a cache that is set up, and no mask, is_causal is off and empty places of the buffer are seen."""

# Seen in torchtune 0.6.1.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    forward, array = MultiHeadAttention(4, 2, causal=True).forward, np.asarray
    cache = {}
else:
    import torch
    from torch.nn import Linear
    from torchtune.modules import MultiHeadAttention

    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    layers = {name: Linear(4, 4) for name in ("q_proj", "k_proj", "v_proj", "output_proj")}
    sizes = {"embed_dim": 4, "num_heads": 2, "num_kv_heads": 2, "head_dim": 2}
    module = MultiHeadAttention(**sizes, **layers, is_causal=True).eval()

    def forward(x, xa=None, mask=None, kv_cache=None):
        """Self-attention; the module's own buffer, if set up, is its cache."""
        return module(x, x, mask=mask)


x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
stateless = np.asarray(forward(x))
if sys.argv[1:] != ["reference"]:
    module.setup_cache(batch_size=1, dtype=torch.float32, max_seq_len=8)
    cache = None
if not np.allclose(forward(x, kv_cache=cache), stateless, atol=1e-5):
    sys.exit("CACHE-1: the first call on an empty cache differs from the call without one")
