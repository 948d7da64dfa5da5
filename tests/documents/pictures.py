"""The picture of a terminal in the README: what bnfold itself prints there, in its colours, as SVG.

python tests/documents/pictures.py

makes it anew. It asks for no font and no file of others: letters are as wide as the SVG says, whatever the font.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "terminal.svg"
COLUMNS = 104
SHOWN = (
    "fold models/digits_cnn.onnx --data models/digits.npz -o digits_folded.onnx",
    "plan models/digits_preact.onnx",
)
FONTS = 'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace'


def printed(command: str, folder: Path) -> str:
    """What a command prints to a terminal that is as wide as the picture, escapes included."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BNFOLD_", "NO_COLOR"))}
    environment |= {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "bnfold", *command.split()]
    return subprocess.run(run, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def picture() -> str:
    """The SVG of all commands, one after the other, in an empty folder with the project's models."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "models", Path(folder) / "models")
        for number, command in enumerate(SHOWN):
            if number:
                console.print()
            console.print(Text.assemble(("$ ", "green"), f"bnfold {command}"))
            console.print(Text.from_ansi(printed(command, Path(folder)).rstrip()), no_wrap=True, crop=False)
    drawn = console.export_svg(title="bnfold", theme=SVG_EXPORT_THEME, unique_id="bnfold")
    without_fonts = re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    plain = without_fonts.replace("Fira Code, monospace", FONTS).replace("Fira Code", "monospace")
    return "\n".join(line.rstrip() for line in plain.splitlines()) + "\n"


def lines_of(svg: str) -> list[str]:
    """The lines that a picture shows, from top to bottom."""
    lines: dict[str, str] = {}
    for text in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        row = re.search(r"line-(\d+)", text.get("clip-path", ""))
        if row is not None:
            lines[row[1]] = lines.get(row[1], "") + (text.text or "")
    return [line.replace("\N{NO-BREAK SPACE}", " ").rstrip() for line in lines.values()]


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
