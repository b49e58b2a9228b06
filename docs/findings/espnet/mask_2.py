"""MASK-2: a float32 mask beside float64 is misread from 16 keys on (PyTorch's kernel)."""

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

x = array(np.random.default_rng(0).standard_normal((1, 17, 4)))
bias = np.random.default_rng(1).standard_normal((17, 17)).astype(np.float32)
module = MultiHeadAttention(4, 2)
y, z = (module(x, mask=array(mask)) for mask in (bias, bias.astype(np.float64)))
if not np.allclose(y, z):
    sys.exit("MASK-2: a float32 mask beside float64 inputs counts otherwise than its float64 copy")
