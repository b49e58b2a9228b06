"""Independent examples: each is drawn anew, where Hypothesis would mutate copies of the one before.

Mutated copies make up most of the examples of a default Hypothesis run. They help where equal values in two places
are rare and matter; here every choice is a small number of named options, copies repeat them, and a run of 150
examples would look at some 30 different situations. An alternative backend receives each example whole, and
failures are replayed and shrunk by Hypothesis as always.
"""

from __future__ import annotations

from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

BACKEND = "attn-conformance-independent"
"""Name for `settings(backend=...)`."""


class IndependentProvider(HypothesisProvider):
    """Hypothesis's own random choices; being a backend of another name is all that matters."""


AVAILABLE_PROVIDERS[BACKEND] = f"{IndependentProvider.__module__}.{IndependentProvider.__qualname__}"
