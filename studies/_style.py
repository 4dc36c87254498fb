"""How the figures look: one colour and one marker per structure, for all studies.

The colours are those of Okabe and Ito, which readers with any colour vision tell apart; the marker says it again.
"""

from typing import Any

RC = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
}

INK, QUIET = "#222222", "#888888"

STRUCTURES = {  # name: (label, colour, marker)
    "low_rank": ("low rank", "#222222", "o"),
    "kronecker": ("Kronecker", "#E69F00", "s"),
    "circulant": ("circulant", "#0072B2", "^"),
    "skew_circulant": ("skew-circulant", "#56B4E9", "v"),
    "toeplitz": ("Toeplitz", "#009E73", "D"),
    "symmetric_toeplitz": ("symmetric Toeplitz", "#009E73", "d"),
    "hankel": ("Hankel", "#CC79A7", "P"),
    "displacement": ("low displacement rank", "#D55E00", "X"),
}


def label(name: str) -> str:
    """How a structure is called in figures and tables."""
    return STRUCTURES[name][0]


def look(name: str, **more: Any) -> dict[str, Any]:
    """Keyword arguments that draw a structure as it is drawn everywhere."""
    text, colour, marker = STRUCTURES[name]
    size = 8 if marker in "XP" else 6  # crosses look smaller than they are
    edge = {"markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.6}
    return {"label": text, "color": colour, "marker": marker} | edge | more


def figure(width: float, height: float) -> Any:
    """A Figure that belongs to nobody's global state and draws without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    new = Figure(figsize=(width, height))
    FigureCanvasAgg(new)
    return new
