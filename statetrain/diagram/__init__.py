"""Pictures of lifecycles, computed from the table.

`picture` says what is shown, `layout` where it goes, and one module each writes it as SVG, Mermaid
or Graphviz text.
"""

from statetrain.diagram.as_dot import dot
from statetrain.diagram.as_mermaid import mermaid
from statetrain.diagram.as_svg import svg
from statetrain.diagram.files import draw, stale_pictures, write_pictures
from statetrain.diagram.flow import flow_dot, flow_mermaid

__all__ = [
    "dot",
    "draw",
    "flow_dot",
    "flow_mermaid",
    "mermaid",
    "stale_pictures",
    "svg",
    "write_pictures",
]
