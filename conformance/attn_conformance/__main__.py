"""`python -m attn_conformance`: the command line."""

import sys

from attn_conformance.cli import main

sys.exit(main())
