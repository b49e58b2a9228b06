"""Hypothesis profiles: where CI is set, the same examples in every run."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True, database=None, deadline=None)
settings.register_profile("default", deadline=None)  # one slow example on a busy machine is no failure
settings.load_profile("ci" if os.environ.get("CI") else "default")
