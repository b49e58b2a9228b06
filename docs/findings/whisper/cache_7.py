"""CACHE-7: a batch of 1 takes what was stored for a batch of 2, and comes back as 2."""

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

x = array(np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32))
cache, _ = install()
forward(x, x, None, cache)
try:
    y = forward(x[:1], x[:1], None, cache)
except Exception:
    sys.exit(0)
sys.exit(f"CACHE-7: a batch of 1 on an entry of 2 gave a result of shape {tuple(y.shape)}")
