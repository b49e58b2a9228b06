"""ERR-3: a call rejected for the shape of its mask has put its keys into the cache."""

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
module = MultiHeadAttention(4, 2)
cache, _ = install(module, {})
try:
    module(x, mask=array(np.ones((3, 4), bool)), kv_cache=cache)
except Exception:
    if cache:
        sys.exit(f"ERR-3: the rejected call left {len(cache)} entries in the cache")
