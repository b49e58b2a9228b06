"""CACHE-6: the mask of a chunk on a warm cache is not used; the oldest keys alone are seen."""

# Seen in openai-whisper 20250625.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    module = MultiHeadAttention(4, 2)
    forward, array, install = module.forward, np.asarray, lambda: ({}, ())
else:
    from functools import partial
    from types import SimpleNamespace

    import torch
    from whisper.model import MultiHeadAttention, Whisper

    module = MultiHeadAttention(4, 2)
    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)

    def forward(*arguments):
        """The first of the pair that the module returns."""
        return module(*arguments)[0]

    model = SimpleNamespace(decoder=module, dims=SimpleNamespace(n_text_ctx=448))
    install = partial(Whisper.install_kv_cache_hooks, model)

x = array(np.random.default_rng(0).standard_normal((1, 4, 4)).astype(np.float32))
expected = forward(x[:, 2:], x, None)
cache, _ = install()
forward(x[:, :2], None, None, cache)
y = forward(x[:, 2:], None, array(np.zeros((2, 4), np.float32)), cache)
if not np.allclose(y, expected, atol=1e-5):
    sys.exit("CACHE-6: a mask of zeros over 2 cached and 2 new keys hides some")
