"""GRAD-2: in bfloat16 the gradient of v is rounded after each block of queries, which adds up (PyTorch's kernel)."""

# Seen in espnet 202412.
import sys

import ml_dtypes
import numpy as np

rng = np.random.default_rng(3)
q, k, v = (rng.standard_normal((1, n, 4)).astype(ml_dtypes.bfloat16) for n in (600, 2, 2))
dout = rng.random((1, 600, 4)).astype(ml_dtypes.bfloat16)

if sys.argv[1:] == ["reference"]:
    from attn_reference import lower, solve_backward

    problem = lower(q[None], k[None], v[None])
    found = solve_backward(problem, dout[None].astype(float)).gradients["v"][0]
else:
    import torch
    from espnet2.speechlm.module.transformer import MultiHeadAttention

    def array(values):
        """A tensor of the same bits."""
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)

    torch.manual_seed(0)
    leaves = [array(x).requires_grad_() for x in (q, k, v)]
    MultiHeadAttention(4, 1).qkv_attention(*leaves).backward(array(dout))
    found = leaves[2].grad

got = float(found[0, 1, 0])
if not abs(got - 149.64088) <= 0.665:
    sys.exit(f"GRAD-2: the gradient of v at [0, 1, 0] is {got:.9g}; expected 149.64088, bound 0.665")
