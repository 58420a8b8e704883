"""A picture of a run as SVG, for places where no terminal is: the README."""

import io
import re
from pathlib import Path

from rich.console import Console, RenderableType

from client.demo.picture import COLUMNS

MARGIN = 2
FONTS = "ui-monospace, 'DejaVu Sans Mono', 'Liberation Mono', Menlo, Consolas, monospace"
_FONT_FACES = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


def write(path: Path, *parts: RenderableType) -> None:
    """Draw the parts below each other. No font is fetched from anywhere."""
    console = Console(
        record=True,
        width=COLUMNS + MARGIN,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    for part in parts:
        console.print(part)
    drawn = _FONT_FACES.sub("", console.export_svg(title="make demo"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(drawn.replace("Fira Code, monospace", FONTS))
