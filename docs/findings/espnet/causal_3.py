"""CAUSAL-3: with fewer queries than keys causality is off."""

# Seen in espnet 202412.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    array = np.asarray
else:
    import torch
    from espnet2.speechlm.module.transformer import MultiHeadAttention

    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)

x = array(np.random.default_rng(0).standard_normal((1, 4, 4)).astype(np.float32))
module = MultiHeadAttention(4, 2, causal=True)
before = module.qkv_attention(x[:, 2:], x, x)
x[:, 3] += 1  # a later key and value than the first of the two queries may see
after = module.qkv_attention(x[:, 2:], x, x)
if not np.allclose(before[:, 0], after[:, 0]):
    sys.exit("CAUSAL-3: query 0 of 2 sees the last of 4 keys")
