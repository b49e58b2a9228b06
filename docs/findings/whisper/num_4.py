"""NUM-4: a query of NaN gives numbers where there are few keys (PyTorch's kernel)."""

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
xa = array(np.ones((1, 3, 4), np.float32))

x[0, 0] = np.nan
if not np.isnan(np.asarray(forward(x, xa))[0, 0]).all():
    sys.exit("NUM-4: a query of NaN gave numbers")
