"""MASK-5: a query whose mask hides every key sees some all the same."""

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
mask = np.zeros((3, 3), np.float32)
mask[2] = -np.inf
y, bias = np.asarray(forward(x, None, array(mask))), np.asarray(module.out.bias)
if not np.allclose(y[0, 2], bias, atol=1e-5):
    sys.exit("MASK-5: row 2 sees no key, yet is not the bias of out")
