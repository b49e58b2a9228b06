"""GRAD-2: in half precision the gradients of k and v are rounded after each block of queries, which adds up."""

# Seen in torch 2.13.0.
import sys

import ml_dtypes
import numpy as np

SEEN = (  # dtype, gradient of what, where, its value, the largest error that passes
    ("bfloat16", 1, (0, 0, 23, 2), -3.54896565, 0.0202),
    ("bfloat16", 2, (0, 0, 59, 6), 15.9865195, 0.0432),
    ("float16", 1, (0, 0, 45, 12), -2.86035634, 0.00229),
    ("float16", 2, (0, 0, 6, 4), 19.8766685, 0.0106),
)
T, S, D = 2048, 64, 16
rng = np.random.default_rng(1)
numbers = [*(rng.standard_normal((1, 1, n, D)) for n in (T, S, S)), rng.random((1, 1, T, D))]

for dtype, of, at, value, bound in SEEN:
    q, k, v, dout = (x.astype(getattr(ml_dtypes, dtype, dtype)) for x in numbers)
    if sys.argv[1:] == ["reference"]:
        from attn_reference import lower, solve_backward

        got = solve_backward(lower(q, k, v), dout.astype(float)).gradients["qkv"[of]][at]
    else:
        import torch
        from torch.nn.functional import scaled_dot_product_attention

        *leaves, upstream = (
            torch.from_numpy(x.astype(float)).to(getattr(torch, dtype)) for x in (q, k, v, dout)
        )
        leaves = [leaf.requires_grad_() for leaf in leaves]
        scaled_dot_product_attention(*leaves).backward(upstream)
        got = float(leaves[of].grad[at])
    if not abs(got - value) <= bound:
        where = f"{dtype}, the gradient of {'qkv'[of]} at {list(at)}"
        sys.exit(f"GRAD-2: in {where} is {got:.9g}; expected {value:.9g}, bound {bound}")
