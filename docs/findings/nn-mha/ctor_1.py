"""CTOR-1: a size that the heads do not divide is met by an assertion, not by ValueError."""

# Seen in torch 2.13.0.
import sys

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention
else:
    from torch.nn import MultiheadAttention as MultiHeadAttention

try:
    MultiHeadAttention(8, 3)
except ValueError:
    sys.exit(0)
except AssertionError as error:
    sys.exit(f"CTOR-1: AssertionError: {error}")
sys.exit("CTOR-1: 8 is split into 3 heads")
