"""CACHE-9: after beams were exchanged in the cache a chunk of two tokens sees its own future."""

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
module = MultiHeadAttention(4, 2, causal=True)
exchanged = x[[1, 0]]
whole = module(exchanged)
cache, _ = install(module, {})
module(x[:, :1], kv_cache=cache)
for key, entry in list(cache.items()):
    cache[key] = entry[[1, 0]]
y = module(exchanged[:, 1:], kv_cache=cache)
if not np.allclose(y, whole[:, 1:], atol=1e-5):
    sys.exit("CACHE-9: tokens 2 and 3 behind entries put in another order differ from one call of 3")
