"""Benchmarks: whether one implementation is slower than another, by more than chance and by more than matters.

A workload is one shape of work. It is posed to both implementations in turn, round by round in random order, on fresh
inputs; the ratios of the pairs decide, and a machine too noisy to tell never passes. Read workloads, posed, clocks,
pairs, rule, in this order.
"""
