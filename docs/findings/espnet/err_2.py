"""ERR-2: what is wrong with a shape is said by RuntimeError, in terms of matrices."""

# Seen in espnet 202412.
import sys

import numpy as np

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention

    array = np.asarray
else:
    import torch
    from espnet2.speechlm.module.transformer import MultiHeadAttention

    array = torch.from_numpy
    torch.set_grad_enabled(False)
    torch.manual_seed(0)

x = array(np.random.default_rng(0).standard_normal((1, 4, 6)).astype(np.float32))
try:
    MultiHeadAttention(4, 2)(x)
except ValueError:
    sys.exit(0)
except Exception as error:
    sys.exit(f"ERR-2: {type(error).__name__}: {error}")
sys.exit("ERR-2: x of size 6 was accepted by a module of size 4")
