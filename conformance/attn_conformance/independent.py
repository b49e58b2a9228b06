"""Independent examples: each is drawn anew, where Hypothesis would mutate copies of the one before.

Mutated copies help where equal values in two places are rare and matter; here every choice is one of a few named
options, and copies repeat them. Of 150 examples of a check, 40 to 100 differ in more than three respects from the one
before under Hypothesis's own backend, and 137 to 149 here. An alternative backend receives each example whole, and
failures are replayed and shrunk by Hypothesis as always.
"""

from __future__ import annotations

from typing import Any

from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider

BACKEND = "attn-conformance-independent"
"""Name for `settings(backend=...)`."""


class IndependentProvider(HypothesisProvider):
    """Hypothesis's own random choices, without the constants that it collects from the modules that are loaded.

    The same seed gives the same cases, whatever else was imported and wherever the suite is installed.
    """

    def _maybe_draw_constant(self, *args: Any, **kwargs: Any) -> None:
        return None


AVAILABLE_PROVIDERS[BACKEND] = f"{IndependentProvider.__module__}.{IndependentProvider.__qualname__}"
