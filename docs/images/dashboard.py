#!/usr/bin/env python3
"""Makes dashboard.svg: runs a training in tmux, and draws its screen once it has made some steps.

Usage: dashboard.py OUTPUT STEP COMMAND..     needs tmux, and rich (`pip install rich`)

The picture in the README: dashboard.py docs/images/dashboard.svg 100 uq4ct train --dataset boolq
"""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH, HEIGHT = 132, 40
SESSION = "uq4ct-dashboard"


def tmux(*words):
    return subprocess.run(["tmux", *words], capture_output=True, text=True, check=True).stdout


def main(output, step, command):
    size = ["-x", str(WIDTH), "-y", str(HEIGHT)]
    tmux("new-session", "-d", "-s", SESSION, *size, shlex.join(command))
    try:
        while True:
            time.sleep(1)
            made = re.search(r"step (\d+)/", tmux("capture-pane", "-p", "-t", SESSION))
            if made and int(made.group(1)) >= step:
                break
        screen = tmux("capture-pane", "-e", "-p", "-t", SESSION)
        tmux("send-keys", "-t", SESSION, "q")
    finally:
        subprocess.run(["tmux", "kill-session", "-t", SESSION], capture_output=True)
    console = Console(record=True, width=WIDTH, file=open("/dev/null", "w"))
    console.print(Text.from_ansi(screen.rstrip("\n")), no_wrap=True, crop=True)
    svg = console.export_svg(title="uq4ct train", font_aspect_ratio=0.602)
    # Fonts of the reader's machine: no picture asks another one for them.
    svg = re.sub(r"@font-face \{[^}]*\}\s*", "", svg)
    svg = svg.replace("Fira Code, monospace", '"DejaVu Sans Mono", Menlo, Consolas, monospace')
    Path(output).write_text(svg)


main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
