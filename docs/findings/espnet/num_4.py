"""NUM-4: a query of NaN gives numbers where there are few keys (PyTorch's kernel)."""

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
xa = array(np.ones((1, 3, 4), np.float32))

x[0, 0] = np.nan
if not np.isnan(np.asarray(MultiHeadAttention(4, 2)(x, xa))[0, 0]).all():
    sys.exit("NUM-4: a query of NaN gave numbers")
