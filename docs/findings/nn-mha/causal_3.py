"""CAUSAL-3: a bottom-right mask with the hint is_causal gives the top-left triangle."""

# Seen in torch 2.13.0.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    forward, array = MultiHeadAttention(4, 2, causal=True).forward, np.asarray
else:
    import torch

    module = torch.nn.MultiheadAttention(4, 2, batch_first=True).eval()
    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)

    def forward(x, keys):
        """A causal call of 2 queries, the last of 3 positions."""
        hidden = torch.ones(2, 3, dtype=torch.bool).triu(2)
        return module(x, keys, keys, attn_mask=hidden, is_causal=True, need_weights=False)[0]


x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
queries, keys = array(np.asarray(x[:, 1:])), x
before = np.asarray(forward(queries, keys))
keys[:, 1] += 1  # visible to both queries
if np.allclose(np.asarray(forward(queries, keys))[0, 0], before[0, 0]):
    sys.exit("CAUSAL-3: query 0 of 2 does not see key 1 of 3")
