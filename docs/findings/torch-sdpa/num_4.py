"""NUM-4: where there are fewer keys than a vector register holds numbers, a row of NaN scores gives zeros."""

# Seen in torch 2.13.0.
import sys

import numpy as np

q = np.full((1, 1, 1, 4), np.nan, np.float32)
k = np.ones((1, 1, 2, 4), np.float32)

if sys.argv[1:] == ["reference"]:
    from attn_reference import attention as scaled_dot_product_attention

    array = np.asarray
else:
    from torch import from_numpy as array
    from torch.nn.functional import scaled_dot_product_attention

out = np.asarray(scaled_dot_product_attention(array(q), array(k), array(k)))
if not np.isnan(out).all():
    sys.exit(f"NUM-4: a query of NaN gave {out[0, 0, 0].tolist()}")
