#!/usr/bin/env python3
"""Draws the boot in `darwin-vz-nix status --json`, read from standard input, as an SVG on standard output."""

import json
import sys
from xml.sax.saxutils import escape

WIDTH, LEFT, ROW, TOP = 760, 170, 24, 44

machine = json.load(sys.stdin)["machines"][0]
boot = machine["lastBoot"]
points = [("connect", 0)] + [(phase["name"], phase["atMs"]) for phase in boot["phases"]]
total = points[-1][1]
height = TOP + ROW * len(points) + 14
scale = (WIDTH - LEFT - 90) / total


def text(x, y, words, **style):
    attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
    return f'<text x="{x:.0f}" y="{y:.0f}"{attributes}>{escape(words)}</text>'


print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="13">')
print(f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>')
how = f'{machine["backend"]}, {machine["accelerator"]}, Linux {boot["kernel"]}'
print(text(14, 24, f"From a connection to an answer: {total / 1000:.2f} s ({how})", font_weight="bold"))
before = 0
for row, (name, at) in enumerate(points):
    y = TOP + ROW * row
    colour = "#2a7f62" if name.startswith("guest") else "#3465a4"
    print(text(LEFT - 10, y + 15, name, text_anchor="end"))
    width = max((at - before) * scale, 1.5)
    print(f'<rect x="{LEFT + before * scale:.1f}" y="{y + 4}" width="{width:.1f}" height="15" fill="{colour}"/>')
    print(text(LEFT + at * scale + 6, y + 15, f"{at} ms", fill="#555555", font_size=11))
    before = at
print("</svg>")
