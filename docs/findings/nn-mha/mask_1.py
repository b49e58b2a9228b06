"""MASK-1: in a boolean mask True hides."""

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


x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
mask = np.ones((3, 3), bool)
mask[:, 2] = False  # key 2 is hidden
before = np.asarray(forward(x, None, array(mask)))[0, 0]
x[0, 2] += 1
if not np.allclose(np.asarray(forward(x, None, array(mask)))[0, 0], before):
    sys.exit("MASK-1: the key with False is seen")
