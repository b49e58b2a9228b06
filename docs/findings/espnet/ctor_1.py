"""CTOR-1: a size that the heads do not divide is met by an assert, not by ValueError."""

# Seen in espnet 202412.
import sys

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention
else:
    from espnet2.speechlm.module.transformer import MultiHeadAttention

try:
    MultiHeadAttention(8, 3)
except ValueError:
    sys.exit(0)
except AssertionError:
    sys.exit("CTOR-1: AssertionError in place of ValueError, and nothing under python -O")
sys.exit("CTOR-1: 8 is split into 3 heads")
