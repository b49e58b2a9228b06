"""MASK-2: a float32 mask beside float64 is misread from 16 keys on (PyTorch's kernel)."""

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


if sys.argv[1:] != ["reference"]:
    module.double()
x = array(np.random.default_rng(0).standard_normal((1, 17, 4)))
bias = np.random.default_rng(1).standard_normal((17, 17)).astype(np.float32)
y, z = (forward(x, None, array(mask)) for mask in (bias, bias.astype(np.float64)))
if not np.allclose(y, z):
    sys.exit("MASK-2: a float32 mask beside float64 inputs counts otherwise than its float64 copy")
