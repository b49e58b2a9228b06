"""Yardsticks: what tests in the manner of other projects' own reject of our wrong implementations."""
