"""ERR-1: k and v of unequal length are accepted."""

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
try:
    MultiHeadAttention(4, 2).qkv_attention(x, x, x[:, :3])
except Exception:
    sys.exit(0)
sys.exit("ERR-1: 4 keys and 3 values gave numbers")
