"""Techniques that shrink a trained module before export, one file each: see :mod:`edgeopt.compress.technique`.

What several techniques share stands in the folders: structure (channels, heads, layers), sparsity, factors, teaching, stages,
families, and planner.
"""
