"""GRAD-3: a query whose mask hides every key makes the gradients of all parameters NaN."""

# Seen in openai-whisper 20250625.
import sys

import numpy as np

x = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
mask = np.zeros((3, 3), np.float32)
mask[2] = -np.inf

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention, lower_forward, solve_forward_backward

    weights = MultiHeadAttention(4, 2).state_dict()
    problem = lower_forward(weights, x, x, n_head=2, mask=mask)
    found = solve_forward_backward(problem, np.ones((1, 3, 4))).gradients["value.weight"]
else:
    import torch
    from whisper.model import MultiHeadAttention

    MultiHeadAttention.use_sdpa = False
    torch.manual_seed(0)
    module = MultiHeadAttention(4, 2)
    module(torch.from_numpy(x), None, torch.from_numpy(mask))[0].sum().backward()
    found = module.value.weight.grad.numpy()

if not np.isfinite(found).all():
    sys.exit("GRAD-3: the gradient of the value projection is NaN")
