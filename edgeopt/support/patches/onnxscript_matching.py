"""Patterns that onnxscript looks for in a graph, before it rewrites what it finds."""

from typing import Any

from edgeopt.support.patches.patch import Patch


def _first_node_first(original: Any) -> Any:
    """A pattern of several output nodes is tried only where its first one fits.

    For each node all nodes of the graph were listed, and nothing found: an eighth of a large conversion.
    """
    from onnxscript.rewriter import _basics

    def match(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        first = None if self.pattern.has_single_output_node else self.pattern.output_nodes[0].op_identifier()
        if first is not None and first != node.op_identifier():
            return _basics.MatchResult().fail("the first node differs")
        return original(self, model, graph, node, **options)

    return match


PATCHES = (
    Patch(
        version="onnxscript 0.7",
        module="onnxscript.rewriter._matcher",
        attribute="SimplePatternMatcher.match",
        digest="c08f09d8639ed525",
        faster=_first_node_first,
    ),
)
