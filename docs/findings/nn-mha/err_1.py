"""ERR-1: x without a batch is accepted."""

# Seen in torch 2.13.0.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    module = MultiHeadAttention(4, 2)
    forward, array = module.forward, np.asarray
else:
    import torch

    module = torch.nn.MultiheadAttention(4, 2, batch_first=True).eval()
    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)

    def forward(x, xa=None, mask=None):
        """The output alone."""
        xa = x if xa is None else xa
        return module(x, xa, xa, need_weights=False, attn_mask=mask)[0]


x = array(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32))
try:
    forward(x)
except Exception:
    sys.exit(0)
sys.exit("ERR-1: x of rank 2 gave numbers")
