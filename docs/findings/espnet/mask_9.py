"""MASK-9: a mask one key wide is stretched over all keys."""

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

x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
try:
    MultiHeadAttention(4, 2)(x, mask=array(np.ones((3, 1), bool)))
except Exception:
    sys.exit(0)
sys.exit("MASK-9: a mask (3, 1) was accepted for 3 keys")
