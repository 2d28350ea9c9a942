"""The catalogue: importing it fills ``OPERATORS``."""

from tests.fuzz.operators import joins, layers, norms, pointwise, reductions, sequences, shapes

__all__ = ["joins", "layers", "norms", "pointwise", "reductions", "sequences", "shapes"]
