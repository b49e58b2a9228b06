"""MASK-2: the values of a mask are never used."""

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

    module = MultiHeadAttention(4, 2)
    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)

    def forward(*arguments):
        """The first of the pair that the module returns."""
        return module(*arguments)[0]


x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
one, other = np.zeros((2, 3, 3), np.float32)
other[:, 0] = 5
if np.array_equal(forward(x, None, array(one)), forward(x, None, array(other))):
    sys.exit("MASK-2: zeros and a bias of 5 on key 0 give the same result")
