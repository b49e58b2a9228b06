"""CACHE-7: a batch of 1 takes what was stored for a batch of 2, and comes back as 2."""

# Seen in espnet 202412.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    array, install = np.asarray, lambda _module, cache: (cache, ())
else:
    import torch
    from espnet2.speechlm.module.transformer import MultiHeadAttention
    from espnet2.speechlm.net_utils import install_kv_cache_hook as install

    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)

x = array(np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32))
module = MultiHeadAttention(4, 2)
cache, _ = install(module, {})
module(x, x, kv_cache=cache)
try:
    y = module(x[:1], x[:1], kv_cache=cache)
except Exception:
    sys.exit(0)
sys.exit(f"CACHE-7: a batch of 1 on an entry of 2 gave a result of shape {tuple(y.shape)}")
