"""Where a node of a graph came from: torch copies the whole history of a node for each node that is made from it.

The history grows with each rewriting, and a tenth of an export went into these copies. Nothing changes a ``NodeSource``
once it is made (only its list, which is copied here too), so that later nodes can share what the earlier ones have.
"""

from typing import Any

from edgeopt.support.patches.patch import Patch


def _shared_history(original: Any) -> Any:
    def made(self: Any, node: Any, pass_name: str = "", action: Any = None) -> None:
        original(self, None, pass_name, action)
        if node:
            self.node_info = self.NodeInfo(name=node.name, target=str(node.target), graph_id=id(node.graph))
            self.from_node = list(node.meta["from_node"]) if "from_node" in node.meta else []

    return made


PATCHES = (
    Patch(
        version="torch 2.13",
        module="torch.fx.traceback",
        attribute="NodeSource.__init__",
        digest="99395e7f40a4a049",
        faster=_shared_history,
    ),
)
