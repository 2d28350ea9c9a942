"""Benchmarks on devices: what to run where, running it, and judging whether the numbers can be trusted.

artifacts --+
devices ----+--> plan --> rounds of launches (one process each) --> Measurement --> runs/<time>-<device>/result.json
settings ---+
"""
