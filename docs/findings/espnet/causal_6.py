"""CAUSAL-6: a call rejected for its mask has put its keys into the cache."""

# Seen in espnet 202412.
import sys
from contextlib import suppress

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
cache, _ = install(module, {})
with suppress(ValueError):
    module(x, mask=array(np.ones((3, 3), bool)), kv_cache=cache)
if cache:
    sys.exit(f"CAUSAL-6: the rejected call left {len(cache)} entries in the cache")
