"""Independent examples: each is drawn anew, where Hypothesis would mutate copies of the one before.

Mutated copies help where equal values in two places are rare and matter; here every choice is one of a few named
options, and copies repeat them. Of 150 examples of a check, 40 to 100 differ in more than three respects from the one
before under Hypothesis's own backend, and 137 to 149 here. An alternative backend receives each example whole, and
failures are replayed and shrunk by Hypothesis as always.
"""

from __future__ import annotations

from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

BACKEND = "attn-conformance-independent"
"""Name for `settings(backend=...)`."""


class IndependentProvider(HypothesisProvider):
    """Hypothesis's own random choices; being a backend of another name is all that matters."""


AVAILABLE_PROVIDERS[BACKEND] = f"{IndependentProvider.__module__}.{IndependentProvider.__qualname__}"
