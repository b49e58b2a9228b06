"""MASK-9: masks of any shape and dtype are accepted."""

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
try:
    forward(x, None, array(np.ones((7, 5), np.int64)))
except Exception:
    sys.exit(0)
sys.exit("MASK-9: an integer mask (7, 5) was accepted for 3 queries and 3 keys")
