"""CACHE-5: two causal layers share a cache, and a chunk of two tokens sees its own future in each."""

# Seen in espnet 202412.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    array, install, together = np.asarray, lambda _module, cache: (cache, ()), list
else:
    import torch
    from espnet2.speechlm.module.transformer import MultiHeadAttention
    from espnet2.speechlm.net_utils import install_kv_cache_hook as install

    array, together = torch.from_numpy, torch.nn.ModuleList
    torch.set_grad_enabled(False)
    torch.manual_seed(0)

x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
layers = together([MultiHeadAttention(4, 2, causal=True) for _ in range(2)])
whole = [layer(x) for layer in layers]
cache, _ = install(layers, {})
chunks = [[layer(chunk, kv_cache=cache) for layer in layers] for chunk in (x[:, :1], x[:, 1:])]
for number, parts in enumerate(zip(*chunks, strict=True)):
    if not np.allclose(np.concatenate(parts, axis=1), whole[number], atol=1e-5):
        sys.exit(f"CACHE-5: in layer {number} chunks of 1 and 2 tokens differ from one call of 3")
