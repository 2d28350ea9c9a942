"""Core ML's ML programs, evaluated anywhere that PyTorch runs.

Data goes one way: loading -> binding -> evaluator; operators/ has one file per family.

The semantics are those of the MIL operator documentation
(https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html).
"""
