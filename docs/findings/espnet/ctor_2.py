"""CTOR-2: a negative number of heads is accepted."""

# Seen in espnet 202412.
import sys

if sys.argv[1:] == ["reference"]:
    from attn_reference import MultiHeadAttention
else:
    from espnet2.speechlm.module.transformer import MultiHeadAttention

try:
    MultiHeadAttention(8, -2)
except ValueError:
    sys.exit(0)
sys.exit("CTOR-2: a module with -2 heads was constructed")
