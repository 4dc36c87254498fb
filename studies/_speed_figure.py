"""The figure of the speed study: a row a product, its ratios and its share of the machine's limit as coloured numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from studies import _style
from studies._speed_page import PEER, PLAIN, WHERE, Cell, label, limit_share, of, peer, reference

BLOCKS: list[tuple[str, Callable[[Cell], float | None], float]] = [
    ("÷ fastest peer", peer, PEER),
    ("÷ best plain lines", reference, PLAIN),
    ("share of the limit", limit_share, 0.0),
]


def plot(numbers: dict[str, Any]) -> Any:
    """Two sheets of ratios: a row a product, blocks of columns against peers, plain lines and the machine."""
    cells = numbers["cells"]
    left = of(cells, "overhead", "Kronecker", "sum", "Kronecker solve", "displacement", threads=1)
    right = of(cells, "fft", "used once", "circulant solve", threads=1)
    two = of(cells, threads=2)
    halves = [[("one thread", left), ("two threads, wall", two)], [("one thread", right)]]
    rows = [sum(len(by_label(part)) + 2 for _, part in half) for half in halves]
    figure = _style.figure(17, max(4, 0.19 * max(rows) + 1.6))
    for ax, half in zip(figure.subplots(1, 2), halves, strict=True):
        sheet(ax, half, max(rows))
    figure.suptitle(
        "sepmat's time over the fastest peer's and over the best plain lines' (blue: sepmat is faster), "
        "and the share of the machine's limit that it reaches",
        fontsize=11,
    )
    return figure


def by_label(cells: Sequence[Cell]) -> dict[str, dict[tuple[str, str], Cell]]:
    """The cells of each product, by precision and library."""
    rows: dict[str, dict[tuple[str, str], Cell]] = {}
    for c in cells:
        rows.setdefault(label(c), {})[(c["dtype"], c["library"])] = c
    return rows


def sheet(ax: Any, parts: list[tuple[str, list[Cell]]], height: int) -> None:
    """Coloured numbers: a row a product, three blocks of four columns."""
    y = 0.0
    for title, cells in parts:
        if not cells:
            continue
        y += 1
        ax.text(-0.2, y, title, ha="right", va="center", fontsize=8.5, fontweight="bold")
        for b, (name, _, _) in enumerate(BLOCKS):
            ax.text(4.3 * b + 2, y - 0.95, name, ha="center", va="center", fontsize=8.5, fontweight="bold")
            for j, (dtype, library) in enumerate(WHERE):
                words = f"{ {'numpy': 'NumPy', 'torch': 'torch'}[library] } {dtype.removeprefix('float')}"
                ax.text(4.3 * b + j + 0.5, y, words, ha="center", va="center", fontsize=6.5)
        y += 1
        for name, found in by_label(cells).items():
            ax.text(-0.2, y, name, ha="right", va="center", fontsize=7.5)
            for b, (_, value, _) in enumerate(BLOCKS):
                for j, place in enumerate(WHERE):
                    if place in found and (v := value(found[place])) is not None:
                        box(ax, 4.3 * b + j, y, v, share=b == 2)
            y += 1
        y += 1
    ax.set(xlim=(-0.1, 12.7), ylim=(height + 1, -0.6))
    ax.axis("off")


def box(ax: Any, x: float, y: float, value: float, share: bool) -> None:
    """One number on its colour: blue where we are faster, red where slower; grey to green for a share."""
    import matplotlib
    from matplotlib.patches import Rectangle

    if share:
        colour, text = matplotlib.colormaps["Greens"](0.75 * min(value, 1.0)), f"{100 * value:.0f} %"
    else:
        tone = 0.5 + 0.5 * max(-1.0, min(1.0, math.log2(value) / 2))
        colour, text = (
            matplotlib.colormaps["RdBu_r"](0.15 + 0.7 * tone),
            f"{value:.2f}" if value < 10 else f"{value:.0f}",
        )
    ax.add_patch(Rectangle((x + 0.02, y - 0.46), 0.96, 0.92, color=colour, linewidth=0))
    dark = share and value > 0.85
    ax.text(x + 0.5, y, text, ha="center", va="center", fontsize=6.5, color="white" if dark else _style.INK)
