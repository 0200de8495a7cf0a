#!/usr/bin/env python3
"""Makes reliability.svg from a run's report: the base model and the tuned one, side by side.

Usage: reliability.py OUTPUT RUN/report.html
"""

import re
import sys
from pathlib import Path

SIDE, HEAD = 344, 280
TITLES = {"Base model: accuracy by confidence": 0, "Tuned model: accuracy by confidence": SIDE + 24}


def main(output, report):
    page = Path(report).read_text()
    parts = []
    for plot in re.findall(r"<svg.*?</svg>", page, re.S):
        label = re.search(r'aria-label="([^"]*)"', plot).group(1)
        title = ": ".join(label.split(": ")[:2])
        if title in TITLES:
            x = TITLES[title]
            inside = re.search(r"<svg[^>]*>(.*)</svg>", plot, re.S).group(1)
            parts.append(
                f'<g transform="translate({x} 28)"><title>{label}</title>{inside}</g>\n'
                f'<text x="{x + SIDE / 2}" y="20" text-anchor="middle" font-family="sans-serif" '
                f'font-size="14">{title}</text>'
            )
    assert len(parts) == len(TITLES), "the report lacks a plot"
    width, height = 2 * SIDE + 24, HEAD + 36
    Path(output).write_text(
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'xmlns="http://www.w3.org/2000/svg">\n'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
