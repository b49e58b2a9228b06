"""GRAD-3: with need_weights a query whose mask hides every key makes the gradients of all parameters NaN."""

# Seen in torch 2.13.0.
import sys

import numpy as np

x = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
mask = np.zeros((3, 3), bool)  # the module's True hides
mask[2] = True

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention, lower_forward, solve_forward_backward

    weights = MultiHeadAttention(4, 2).state_dict()
    problem = lower_forward(weights, x, x, n_head=2, mask=~mask)
    found = solve_forward_backward(problem, np.ones((1, 3, 4))).gradients["value.weight"]
else:
    import torch

    torch.manual_seed(0)
    module = torch.nn.MultiheadAttention(4, 2, batch_first=True).eval()
    y, _ = module(*[torch.from_numpy(x)] * 3, need_weights=True, attn_mask=torch.from_numpy(mask))
    y.sum().backward()
    found = module.in_proj_weight.grad[8:].numpy()

if not np.isfinite(found).all():
    sys.exit("GRAD-3: the gradient of the value projection is NaN")
