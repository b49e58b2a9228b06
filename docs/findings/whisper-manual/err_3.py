"""ERR-3: a call rejected for its mask has put its keys into the cache."""

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

x = array(np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32))
cache, _ = install()
try:
    forward(x, None, array(np.ones((3, 2), np.float32)), cache)
except Exception:
    if cache:
        sys.exit(f"ERR-3: the rejected call left {len(cache)} entries in the cache")
