"""MASK-2: the memory-efficient kernel refuses masks that do not lie at multiples of 16 bytes."""

# Seen in torch 2.11.0.
import sys

import numpy as np

rng = np.random.default_rng(0)
numbers = rng.standard_normal(401).astype(np.float16)
q, k, v = (rng.standard_normal((1, 2, n, 64)).astype(np.float16) for n in (2, 200, 200))
MASKS = ((197, 197, 0), (200, 200, 1), (199, 200, 1))  # keys, from row to row, and first of the numbers

for keys, row, first in MASKS:
    mask = np.stack([numbers[first:][:keys], numbers[first + row :][:keys]])
    call = q, k[:, :, :keys], v[:, :, :keys]
    if sys.argv[1:] == ["reference"]:
        from attn_reference import attention

        out = attention(*call, mask)
    else:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        if not torch.cuda.is_available():
            sys.stderr.write("no verdict: there is no CUDA device\n")
            sys.exit(2)
        tensors = [torch.from_numpy(x.copy()).cuda() for x in call]
        view = torch.from_numpy(numbers).cuda().as_strided((2, keys), (row, 1), first)
        with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
            try:
                out = torch.nn.functional.scaled_dot_product_attention(*tensors, view).cpu().numpy()
            except RuntimeError as error:
                sys.exit(f"MASK-2: {keys} keys, rows of {row} from {first} on: {str(error).splitlines()[0]}")
    p = np.exp(call[0].astype(float) @ call[1].astype(float).swapaxes(2, 3) / 8 + mask)
    if not np.abs(out - p / p.sum(-1, keepdims=True) @ call[2].astype(float)).max() < 2e-3:
        sys.exit(f"MASK-2: {keys} keys, rows of {row} from {first} on: the numbers are wrong")
