"""CACHE-3: a chunk longer than n_text_ctx takes the place of the keys before it."""

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

x = array(np.random.default_rng(0).standard_normal((1, 450, 4)).astype(np.float32))
cache, _ = install()
forward(x[:, :1], None, None, cache)
forward(x[:, 1:], None, None, cache)
length = cache[module.key].shape[1]
if length != 450:
    sys.exit(f"CACHE-3: after 1 and 449 tokens the cache holds {length} keys")
