"""Techniques that shrink a trained module before export, one file each: see :mod:`edgeopt.compress.technique`."""
