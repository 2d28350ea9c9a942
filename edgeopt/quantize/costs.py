"""What operators save in integers and what conversions cost: the numbers that the minimum cut weighs.

They are the profile's, which hold for no model in particular, or measured ones that took their place in it
(:class:`edgeopt.targets.schema.Costs`): then a microsecond is the unit of all of them.
"""

from dataclasses import dataclass

from torch.fx import Node

from edgeopt.capture.operator_kinds import HEAVY, PASS_THROUGH, elements, macs
from edgeopt.quantize.graph import Op
from edgeopt.targets.schema import TargetProfile

PASS_THROUGH_GAIN = 0.05
"""Per element: moving a quarter of the bytes is worth a little, never a conversion of its own."""


@dataclass(frozen=True, slots=True)
class OperatorCosts:
    """The costs of one target, in a unit of its own; only their ratios count."""

    profile: TargetProfile

    def gain(self, op: Op) -> float:
        """What ``op`` in integers saves against floats; below 0 where it was measured to be slower in them."""
        measured = self.profile.costs.measured
        if measured is None:
            return self._assumed(op)
        return measured.saved.get(op.output.name, self._assumed(op) * measured.unit)

    def _assumed(self, op: Op) -> float:
        """By the profile, in its unit."""
        size, costs = elements(op.output), self.profile.costs
        if op.kind in HEAVY:
            return macs(op.head) * costs.mac_gain + size * costs.element_gain
        if op.kind == "embedding":
            return float(elements(op.operands[0]))  # a table four times smaller, read row by row, is worth its conversion
        return size * (PASS_THROUGH_GAIN if op.kind in PASS_THROUGH else costs.element_gain)

    def quantize(self, value: Node) -> float:
        """To convert ``value`` from floats to integers."""
        return elements(value) * (self.profile.costs.measured or self.profile.costs).quantize

    def dequantize(self, value: Node) -> float:
        """To convert ``value`` from integers to floats."""
        return elements(value) * (self.profile.costs.measured or self.profile.costs).dequantize
