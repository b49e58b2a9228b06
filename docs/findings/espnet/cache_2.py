"""CACHE-2: a chunk of two tokens on a warm cache sees its own future."""

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

x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
module = MultiHeadAttention(4, 2, causal=True)
whole = module(x)
cache, _ = install(module, {})
chunks = [module(chunk, kv_cache=cache) for chunk in (x[:, :1], x[:, 1:])]
if not np.allclose(np.concatenate(chunks, axis=1), whole, atol=1e-5):
    sys.exit("CACHE-2: chunks of 1 and 2 tokens differ from one call of 3")
