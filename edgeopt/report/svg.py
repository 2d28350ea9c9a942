"""What every plot ends with: the figure as SVG, the same bytes each time, and texts drawn as they are."""

import io
from typing import TYPE_CHECKING

from edgeopt.report.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg(figure: "Figure") -> bytes:
    """``figure`` as an SVG file. No date and no random names in it: the same figure gives the same bytes."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "edgeopt"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def literal(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar sign would begin mathematics."""
    return one_line(text).replace("$", r"\$")
