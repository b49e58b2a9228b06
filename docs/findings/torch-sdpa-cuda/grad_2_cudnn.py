"""GRAD-2: cuDNN's gradients are NaN where all scores of a row are near -100."""

# Seen in torch 2.11.0.
import sys

import ml_dtypes
import numpy as np

rng = np.random.default_rng(0)
numbers = [rng.standard_normal((1, 1, 64, 64)) for _ in range(4)]

for score in (-90, -100, -110):
    q, k = numbers[0] / 8 + 1, numbers[1] / 8 + score / 8  # the scale is 1/8: scores are near `score`
    q, k, v, dout = (x.astype(ml_dtypes.bfloat16) for x in (q, k, *numbers[2:]))
    if sys.argv[1:] == ["reference"]:
        from attn_reference import lower, solve_backward

        found = solve_backward(lower(q, k, v), dout.astype(float)).gradients
        gradients = [found[name] for name in "qkv"]
    else:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if not torch.cuda.is_available():
            sys.stderr.write("no verdict: there is no CUDA device\n")
            sys.exit(2)
        tensors = [torch.from_numpy(x.astype(float)).to("cuda", torch.bfloat16) for x in (q, k, v, dout)]
        leaves = [x.requires_grad_() for x in tensors[:3]]
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            torch.nn.functional.scaled_dot_product_attention(*leaves).backward(tensors[3])
        gradients = [leaf.grad.float().cpu().numpy() for leaf in leaves]
    for name, gradient in zip("qkv", gradients, strict=True):
        if wrong := int(np.isnan(gradient).sum()):
            sys.exit(f"GRAD-2: scores near {score}: {wrong} of {gradient.size} numbers of d{name} are NaN")
