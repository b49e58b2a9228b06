"""CACHE-6: a mask over cached and new keys is cut to the new ones, and then does not fit."""

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

    MultiHeadAttention.use_sdpa = False
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
cache, _ = install()
forward(x[:, :2], None, None, cache)
try:
    forward(x[:, 2:], None, array(np.zeros((2, 4), np.float32)), cache)
except RuntimeError as error:
    sys.exit(f"CACHE-6: a mask (2, 4) over 2 cached and 2 new keys raises: {error}")
