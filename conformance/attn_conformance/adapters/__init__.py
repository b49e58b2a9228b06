"""Adapters: real multi-head attentions as the suite's Implementation, one module for each library.

An adapter translates, and repairs nothing that its library gets wrong.
"""
