"""MASK-10: a 3-D mask is read as one plane for each head."""

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

x = array(np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32))
try:
    MultiHeadAttention(4, 2)(x, mask=array(np.ones((2, 3, 3), bool)))
except Exception:
    sys.exit(0)
sys.exit("MASK-10: a mask (2, 3, 3) was accepted, though it could be of 2 batch elements or of 2 heads")
