"""ERR-3: a call rejected for its mask has put its keys into the cache."""

# Seen in torchtune 0.6.1.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    forward, array = MultiHeadAttention(4, 2).forward, np.asarray
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
    module = MultiHeadAttention(**sizes, **layers, is_causal=False).eval()

    def forward(x, xa=None, mask=None, kv_cache=None):
        """Self-attention; the module's own buffer, if set up, is its cache."""
        return module(x, x, mask=mask)


x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
if sys.argv[1:] != ["reference"]:
    module.setup_cache(batch_size=1, dtype=torch.float32, max_seq_len=8)
    cache = module.kv_cache
try:
    forward(x, mask=array(np.ones((1, 3, 5), bool)), kv_cache=cache)
except Exception:
    if length := getattr(cache, "size", 0):
        sys.exit(f"ERR-3: the rejected call left {length} keys in the cache")
