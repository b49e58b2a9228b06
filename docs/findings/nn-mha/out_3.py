"""OUT-3: weights held in another dtype than that of x are not cast."""

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
try:
    forward(array(np.asarray(x).astype(np.float16)))
except RuntimeError as error:
    sys.exit(f"OUT-3: float16 x beside float32 weights raises: {error}")
