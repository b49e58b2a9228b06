"""MASK-8: a mask is ignored where there is one query."""

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
hidden = array(np.array([[0, 0, -np.inf]], np.float32))
if np.array_equal(forward(x[:, :1], x, hidden), forward(x[:, :1], x)):
    sys.exit("MASK-8: hiding one of three keys from a single query changes nothing")
