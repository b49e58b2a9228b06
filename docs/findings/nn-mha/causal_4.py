"""CAUSAL-4: a mask beside is_causal is accepted, and ignored where gradients are recorded."""

# Seen in torch 2.13.0.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    module = MultiHeadAttention(4, 2, causal=True)
    forward, array = module.forward, np.asarray
else:
    import torch

    module = torch.nn.MultiheadAttention(4, 2, batch_first=True).eval()
    array = torch.from_numpy
    torch.manual_seed(0)

    def forward(x, xa=None, mask=None):
        """The output alone."""
        xa = x if xa is None else xa
        return module(x, xa, xa, need_weights=False, attn_mask=mask, is_causal=True)[0].detach()


x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
try:
    one, other = (forward(x, None, array(np.full((3, 3), value, bool))) for value in (True, False))
except ValueError:
    sys.exit(0)
sys.exit(f"CAUSAL-4: two masks beside is_causal, equal results: {np.array_equal(one, other)}")
