"""The suite as tests: `pytest --pyargs attn_conformance.suite --attn-impl TARGET`."""
