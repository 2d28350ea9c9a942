"""litert_torch.convert takes modules only, and exports them once more."""

from typing import TYPE_CHECKING, Any

from edgeopt.support.patches.patch import Patch

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def exported_already(exported: "ExportedProgram | None") -> tuple[Patch, ...]:
    """Hands it ``exported`` instead of the module's own export: a tenth of a conversion. None: to read its source ahead."""

    def made(original: Any) -> Any:
        from litert_torch import fx_infra

        def export_torch_signature(*_: Any, **__: Any) -> "ExportedProgram":
            reset = fx_infra.graph_utils.reset_from_node_meta(exported)
            decompositions = fx_infra.decomp.pre_convert_decomp()
            found: ExportedProgram = fx_infra.safe_run_decompositions(reset, decompositions, can_skip=False)
            return found

        return export_torch_signature

    return (
        Patch(
            version="litert-torch 0.10",
            module="litert_torch._convert.core",
            attribute="export_torch_signature",
            digest="cd410a76d9cab602",
            faster=made,
        ),
    )
