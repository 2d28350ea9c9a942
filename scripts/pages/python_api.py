"""The pages of what Python code imports: mkdocstrings writes them from the docstrings."""

_MODULES = {
    "python": ("edgeopt", "Nothing heavy is imported until it is used. What an export may raise is on the page Errors."),
    "python-compress": ("edgeopt.compress", "What each technique is for, and what it gains: [Compression](../compression.md)."),
    "python-coreml": ("edgeopt.coreml", "What is computed, and how far to trust it: [Core ML on any machine](../coreml.md)."),
    "python-core": (
        "edgeopt.core",
        "`manifest.json` is a `Manifest` as JSON, and `bundle.manifest` is one in Python: the classes below are its parts.",
    ),
}
_OF_DATA = ("edgeopt.core", "edgeopt.compress")
"""Modules of data classes, whose fields say by their names and types what they are: shown also without words of their own."""


def pages() -> dict[str, str]:
    """The pages' texts by their names, each with the module's own words and all that it makes public."""
    return {name: f"# {module}\n\n{text}\n\n::: {module}\n{_options(module)}" for name, (module, text) in _MODULES.items()}


def _options(module: str) -> str:
    options = "    options:\n      show_root_heading: false\n      heading_level: 1\n"
    if module in _OF_DATA:
        options += '      show_if_no_docstring: true\n      filters: ["!^_", "!^T$"]\n'
    return options
