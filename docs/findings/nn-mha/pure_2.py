"""PURE-2: a row without visible keys is NaN without gradients and zeros with them."""

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
    torch.manual_seed(0)

    def forward(x, xa=None, mask=None):
        """The output alone."""
        xa = x if xa is None else xa
        return module(x, xa, xa, need_weights=False, attn_mask=mask)[0].detach()


x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
mask = array(np.full((3, 3), sys.argv[1:] != ["reference"]))  # nothing is visible; the module's True hides
with_gradients = np.asarray(forward(x, None, mask))
if sys.argv[1:] != ["reference"]:
    torch.set_grad_enabled(False)
if not np.allclose(forward(x, None, mask), with_gradients):
    sys.exit("PURE-2: one call, two results, with gradients recorded and without")
