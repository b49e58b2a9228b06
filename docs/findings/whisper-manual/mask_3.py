"""MASK-3: with one query every batch element has the mask of the first."""

# Seen in openai-whisper 20250625.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    module = MultiHeadAttention(4, 2)
    forward, array = module.forward, np.asarray
else:
    import torch
    from whisper.model import MultiHeadAttention

    MultiHeadAttention.use_sdpa = False
    module = MultiHeadAttention(4, 2)
    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)

    def forward(*arguments):
        """The first of the pair that the module returns."""
        return module(*arguments)[0]


x = array(np.random.default_rng(0).standard_normal((2, 1, 4)).astype(np.float32))
xa = array(np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32))
mask = np.zeros((2, 1, 1, 3), np.float32)
mask[1, ..., 0] = 5
if np.array_equal(np.asarray(forward(x, xa, array(mask)))[1], np.asarray(forward(x, xa))[1]):
    sys.exit("MASK-3: the second batch element's mask is not used")
