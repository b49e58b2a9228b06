"""MASK-4: a mask of more batch elements than queries is cut, and then does not fit."""

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


x = array(np.random.default_rng(0).standard_normal((3, 2, 4)).astype(np.float32))
try:
    forward(x, None, array(np.zeros((3, 1, 2, 2), np.float32)))
except RuntimeError as error:
    sys.exit(f"MASK-4: a mask (3, 1, 2, 2) raises: {error}")
