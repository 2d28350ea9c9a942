"""From the user's module to one canonical program, proved against it: run, checked, exported, rewritten, compared."""

from edgeopt.capture.captured import Captured, capture, interface, program_digest
from edgeopt.capture.layers import failing_layer, layer_of, layer_path
from edgeopt.capture.program_names import name_inputs

__all__ = ["Captured", "capture", "failing_layer", "interface", "layer_of", "layer_path", "name_inputs", "program_digest"]
