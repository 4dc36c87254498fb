"""Sums of Kronecker products found again, in time and error beside TensorLy and pyttb.

Matrices of known separation rank with noise: 512 × 512 with 5 terms, far apart or with every pairwise cosine 0.9 in each
factor, and 4096 × 4096 with 10 terms; every competitor is told the number of terms. And the error that a package reports
beside the true one. A time is CPU time of one thread; sepmat is timed from the matrix on, the peers from the rearranged
tensor on, in which form they take it.
"""

import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import sepmat as sm
from studies import _peers, _problems, _study, _style

STATUS = "reproduced"
LONG = True
OURS, HAND = "sepmat", "pyttb hosvd, then TensorLy"
TIGHT = {"tol": 1e-15, "n_iter_max": 2000}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "TensorLy": ("tensorly", {}),
    "TensorLy, line search": ("tensorly", {"linesearch": True}),
    "TensorLy, 2000 iterations": ("tensorly", TIGHT),
    "TensorLy, line search, 2000": ("tensorly", {"linesearch": True} | TIGHT),
    "TensorLy, random, 2000": ("tensorly", {"init": "random"} | TIGHT),
    "pyttb": ("pyttb", {}),
    "pyttb, nvecs, 2000": ("pyttb", {"init": "nvecs", "stoptol": 1e-15, "maxiters": 2000}),
    "pyttb, random, 2000": ("pyttb", {"stoptol": 1e-15, "maxiters": 2000}),
}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "processes": 1,
        "known": {"n": 4, "rank": 2, "seeds": 1, "cosines": [0.0], "noises": [1e-3, 0.0], "rounds": 1},
        "peers": ["TensorLy", "pyttb"],  # nvecs of pyttb draws at random and takes no seed: it does not repeat
        "timed": [],
        "reported": {"n": 4, "rank": 2, "peers": ["TensorLy"], "float64": [2, 6, 10], "float32": [2, 4]},
        "large": {},
    },
    "paper": {
        "processes": 2,
        "known": {"n": 8, "rank": 5, "seeds": 5, "cosines": [0.0, 0.9], "noises": [1e-3, 1e-8, 0.0], "rounds": 5},
        "peers": list(METHODS),
        "timed": ["TensorLy", "pyttb, nvecs, 2000"],
        "reported": {
            "n": 8,
            "rank": 5,
            "peers": ["TensorLy, 2000 iterations", "pyttb, nvecs, 2000"],
            "float64": list(range(1, 15)),
            "float32": list(range(1, 7)),
        },
        "large": {"n": 16, "rank": 10, "seeds": 3, "noise": 1e-6, "rounds": 5},
    },
}
LARGE: dict[str, tuple[str, dict[str, Any]]] = {
    "TensorLy": ("tensorly", {}),
    "TensorLy, random": ("tensorly", {"init": "random"}),
    "TensorLy, randomised svd": ("tensorly", {"svd": "randomized_svd"}),
    "TensorLy, randomised svd, line search, tol 1e-10": (
        "tensorly",
        {"svd": "randomized_svd", "linesearch": True, "tol": 1e-10, "n_iter_max": 1000},
    ),
    "pyttb": ("pyttb", {}),
    "pyttb, nvecs": ("pyttb", {"init": "nvecs"}),
    "pyttb, nvecs, stoptol 1e-6": ("pyttb", {"init": "nvecs", "stoptol": 1e-6}),
    "pyttb, nvecs, stoptol 1e-10": ("pyttb", {"init": "nvecs", "stoptol": 1e-10, "maxiters": 2000}),
}
NOISES = {1e-3: ("#E69F00", "η = 1e-3"), 1e-8: ("#56B4E9", "η = 1e-8"), 0.0: ("#222222", "no noise")}
DEFAULTS = ["TensorLy", "TensorLy, random", "TensorLy, randomised svd", "pyttb", "pyttb, nvecs"]
# in the timing rounds of the large tensor: what takes about a second or less
TIMED_LARGE = [OURS, HAND, "pyttb", "pyttb, nvecs", "pyttb, nvecs, stoptol 1e-6"]


# --- one problem, all competitors -------------------------------------------------------------------------------------


def peer(method: tuple[str, dict[str, Any]], T: Any, rank: int, seed: int) -> Callable[[], Any]:
    """A call of a peer, with its random draws seeded."""
    package, settings = method
    if package == "pyttb":
        return _peers.pyttb(T, rank, seed=seed, **settings)
    return _peers.tensorly(T, rank, random_state=seed, **settings)


def known_rank(job: tuple[dict[str, Any], list[str], list[str], float, float, int]) -> dict[str, Any]:
    """One tensor of known rank: each competitor once, then the timing rounds."""
    p, names, timed, cosine, noise, seed = job
    n, rank = p["n"], p["rank"]
    T = _problems.known_rank(n, rank, seed, cosine, noise)
    calls = {OURS: ours(T, n, rank)} | {name: peer(METHODS[name], T, rank, seed) for name in names}
    return raced(T, calls, [OURS, *timed], p["rounds"], seed)


def large(job: tuple[dict[str, Any], int]) -> dict[str, Any]:
    """One 256³ tensor: each competitor once, then the timing rounds of the fast ones."""
    p, seed = job
    n, rank = p["n"], p["rank"]
    T = _problems.known_rank(n, rank, seed, 0.0, p["noise"])
    calls = {OURS: ours(T, n, rank), HAND: _peers.by_hand(T, rank)}
    calls |= {name: peer(method, T, rank, seed) for name, method in LARGE.items()}
    return raced(T, calls, TIMED_LARGE, p["rounds"], seed)


def ours(T: Any, n: int, rank: int) -> Callable[[], Any]:
    """The matrix whose rearrangement is T, as a sum of Kronecker products."""
    shapes = [(n, n)] * T.ndim
    return _peers.sepmat(sm.nearest_separated, sm.rearrange_back(T, shapes), shapes, rank=rank)


def raced(T: Any, calls: dict[str, Callable[[], Any]], fast: list[str], rounds: int, seed: int) -> dict[str, Any]:
    """What each call is worth, and the median time of the fast ones over the rounds."""
    runs = {name: _peers.run(call, lambda A: _peers.true_error(T, A)) for name, call in calls.items()}
    timed = _peers.rounds({name: calls[name] for name in fast}, rounds, np.random.default_rng(seed))
    return {"runs": runs, "seconds": {name: statistics.median(v) for name, v in timed.items()}}


def reported(job: tuple[dict[str, Any], str, int]) -> dict[str, Any]:
    """Reported and true error at noise 10^-power; the true one by a residual in extended precision."""
    p, dtype, power = job
    n, rank = p["n"], p["rank"]
    T = _problems.known_rank(n, rank, 0, 0.0, 10.0**-power).astype(dtype)
    calls = {OURS: ours(T, n, rank)}
    calls |= {name: peer(METHODS[name], T, rank, 0) for name in p["peers"]}
    wide = T.astype(np.longdouble)
    out = {name: _peers.run(call, lambda A: _peers.true_error(wide, A)) for name, call in calls.items()}
    if dtype == "float64":  # the same from terms: rank + 3 of them, the last three small
        rng = np.random.default_rng(power)
        terms = [1.0] * rank + [10.0**-power] * 3, [_problems.columns(rng, n * n, rank + 3) for _ in range(3)]
        full = _peers.dense(terms, np.longdouble)
        call = _peers.sepmat(sm.compress, _peers.separated(terms, [(n, n)] * 3), rank=rank)
        out[f"{OURS}, from terms"] = _peers.run(call, lambda A: _peers.true_error(full, A))
    return {name: {k: run.get(k) for k in ("error", "reported")} for name, run in out.items()}


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """All problems, on all processors; the competitors of one problem run in one process, one after the other."""
    e, g, r, processes = p["known"], p["large"], p["reported"], p["processes"]
    cells = [(cosine, noise) for cosine in e["cosines"] for noise in e["noises"]]
    known = _study.parallel(
        known_rank,
        [(e, p["peers"], p["timed"], *cell, s) for cell in cells for s in range(e["seeds"])],
        "known rank",
        processes,
    )
    powers = [(r, dtype, k) for dtype in ("float64", "float32") for k in r[dtype]]
    errors = _study.parallel(reported, powers, "reported errors", processes)
    out: dict[str, Any] = {
        "n": e["n"],
        "rank": e["rank"],
        "known": [
            {"cosine": c, "noise": noise, "optimum": _problems.optimum(e["n"], e["rank"], noise)}
            | gather(known[i * e["seeds"] : (i + 1) * e["seeds"]])
            for i, (c, noise) in enumerate(cells)
        ],
        "reported": [
            {"dtype": dtype, "power": k, "runs": found} for (_, dtype, k), found in zip(powers, errors, strict=True)
        ],
    }
    if g:
        found = [
            large((g, s)) for s in _study.progress(range(g["seeds"]), "256³")
        ]  # alone: memory is what they wait for
        out["large"] = {"noise": g["noise"]} | gather(found)
    return out


def gather(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs of several seeds, by competitor and quantity; the times of the rounds likewise."""
    keys = ("error", "reported", "kappa", "iterations", "seconds")
    runs = {name: {k: [f["runs"][name].get(k) for f in found] for k in keys} for name in found[0]["runs"]}
    return {"runs": runs, "seconds": {k: [f["seconds"][k] for f in found] for k in found[0]["seconds"]}}


# --- what comes out ---------------------------------------------------------------------------------------------------


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """The goals, each with the number that decides; the smoke preset has no clock and no large tensor."""
    out: dict[str, bool] = {}
    known = numbers["known"]
    out["no noise: error at most 1e-14 on every seed"] = all(
        max(cell["runs"][OURS]["error"]) <= 1e-14 for cell in known if not cell["noise"]
    )
    out["noise: error at most 1.001 times the optimum on every seed"] = all(
        max(cell["runs"][OURS]["error"]) <= 1.001 * cell["optimum"] for cell in known if cell["noise"]
    )
    out["sepmat reports the true error to 1 %: down to 1e-14 in float64, to 1e-6 in float32"] = all(
        abs(run["reported"] / run["error"] - 1) <= 0.01
        for row in numbers["reported"]
        for name, run in row["runs"].items()
        if name.startswith(OURS)
    )
    return out | (paper_claims(numbers) if "large" in numbers else {})


def paper_claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """What only the full sizes and the clock can tell."""
    out: dict[str, bool] = {}
    for cell in numbers["known"]:
        if not cell["noise"]:
            text = f"no noise, cosine {cell['cosine']:g}: sepmat takes at most the time of TensorLy's default"
            out[text] = ratio(cell["seconds"], "TensorLy") >= 1
    hard = [cell for cell in numbers["known"] if cell["cosine"] and cell["noise"] < 1e-3]
    out["cosine 0.9, noise 1e-8 or none: every setting of the peers ends above 4e-8 on every seed"] = all(
        e > 4e-8 for cell in hard for name, run in cell["runs"].items() if name != OURS for e in present(run["error"])
    )
    out["the peers report 1e-8 or more, or exactly 0, where the true error is below 5e-9"] = all(
        run["reported"] == 0 or run["reported"] >= 1e-8
        for row in numbers["reported"]
        for name, run in row["runs"].items()
        if not name.startswith(OURS) and run["error"] < 5e-9
    )
    g = numbers["large"]
    seeds = range(len(g["runs"][OURS]["error"]))
    right = {name: [e <= 2 * g["noise"] for e in run["error"]] for name, run in g["runs"].items() if name != OURS}
    out["256³: error at most 1.01e-6 on every seed"] = max(g["runs"][OURS]["error"]) <= 1.01e-6
    out["256³: faster than every default of the peers, on every seed"] = all(
        times(g, name, s) > 1 for name in DEFAULTS for s in seeds
    )
    out["256³: at least 5 times faster than every setting of a peer that reaches 2e-6 on all seeds"] = all(
        times(g, name, s) >= 5 for name in right if all(right[name]) and name != HAND for s in seeds
    )
    out["256³: at least 5 times faster on each seed than every setting of a peer that reaches 2e-6 on that one"] = all(
        times(g, name, s) >= 5 for name in right if name != HAND for s in seeds if right[name][s]
    )
    out["256³: faster on every seed than pyttb's hosvd and TensorLy's parafac put together by hand"] = all(
        times(g, HAND, s) > 1 for s in seeds
    )
    return out


def present(values: list[float | None]) -> list[float]:
    """What is there: a peer that failed left None."""
    return [v for v in values if v is not None]


def ratio(seconds: dict[str, list[float]], name: str) -> float:
    """How many times as long as sepmat a peer takes: median over the seeds of the ratio within one process."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[OURS], strict=True))


def clock(g: dict[str, Any], name: str) -> list[float]:
    """Seconds on each seed, of the rounds where there are some, else of the single run."""
    return list(g["seconds"].get(name, g["runs"][name]["seconds"]))


def times(g: dict[str, Any], name: str, seed: int) -> float:
    """How many times as long as sepmat it takes on one seed."""
    return clock(g, name)[seed] / clock(g, OURS)[seed]


def tables(numbers: dict[str, Any]) -> str:
    """Known rank, the large tensor, the reported errors."""
    parts = []
    cells, n, r = numbers["known"], numbers["n"], numbers["rank"]
    rows = [[name, *(known_text(cell["runs"][name]) for cell in cells)] for name in cells[0]["runs"]]
    head = ["", *(f"cosine {cell['cosine']:g}, {NOISES[cell['noise']][1]}" for cell in cells)]
    text = f"{r} terms of {n}×{n} ⊗ {n}×{n} ⊗ {n}×{n}: median error (largest, where it is another), median CPU time"
    parts.append(f"{text}:\n\n" + _study.table(head, rows))
    if "large" in numbers:
        g = numbers["large"]
        seeds = range(len(g["runs"][OURS]["error"]))
        rows = [
            [name, *(f"{e:.3g}" for e in run["error"]), *(f"{clock(g, name)[s]:.2f}" for s in seeds)]
            + [f"{statistics.median(times(g, name, s) for s in seeds):.1f}"]
            for name, run in g["runs"].items()
        ]
        head = ["", *(f"error, seed {s}" for s in seeds), *(f"seconds, seed {s}" for s in seeds), "times sepmat"]
        text = "10 terms of 16×16 ⊗ 16×16 ⊗ 16×16, 4096 × 4096, η = 1e-6"
        parts.append(f"{text}:\n\n" + _study.table(head, rows))
    for dtype in ("float64", "float32"):
        found = [row for row in numbers["reported"] if row["dtype"] == dtype]
        rows = [
            [f"1e-{row['power']}", *(f"{run['error']:.4g} / {run['reported']:.4g}" for run in row["runs"].values())]
            for row in found
        ]
        parts.append(f"True / reported error, {dtype}:\n\n" + _study.table(["noise", *found[0]["runs"]], rows))
    return "\n\n".join(parts)


def known_text(run: dict[str, Any]) -> str:
    """Median error, the largest where it is another, median time."""
    e = present(run["error"])
    if not e:
        return "fails"
    worst = f" ({max(e):.2g})" if max(e) > 1.05 * statistics.median(e) else ""
    return f"{statistics.median(e):.3g}{worst}, {statistics.median(run['seconds']):.3f} s"


def plot(numbers: dict[str, Any]) -> Any:
    """Errors of the known ranks; their times, the large tensor, the reported errors."""
    cells = numbers["known"]
    figure = _style.figure(15, 9.5)
    top, bottom = figure.subfigures(2, 1)
    axes = top.subplots(1, 3)
    for ax, cosine in zip(axes, sorted({cell["cosine"] for cell in cells}), strict=False):
        plot_errors(ax, [cell for cell in cells if cell["cosine"] == cosine])
        ax.set_title(f"Known rank, cosine {cosine:g}: every seed")
    plot_times(axes[2], cells)
    for ax in axes[1:]:
        ax.set_yticklabels([])
    axes = bottom.subplots(1, 2)
    if "large" in numbers:
        plot_large(axes[0], numbers["large"])
    plot_reported(axes[1], [row["runs"] for row in numbers["reported"] if row["dtype"] == "float64"])
    return figure


def plot_errors(ax: Any, cells: list[dict[str, Any]]) -> None:
    """A row a competitor, a colour a noise, the optimum as a line."""
    names = list(cells[0]["runs"])
    for cell in cells:
        colour, label = NOISES[cell["noise"]]
        if cell["noise"]:
            ax.axvline(cell["optimum"], color=colour, linewidth=1, linestyle=":")
        shift = 0.2 * (list(NOISES).index(cell["noise"]) - 1)
        for i, name in enumerate(names):
            e = present(cell["runs"][name]["error"])
            ax.plot(e, [i + shift] * len(e), "o", color=colour, markersize=5, alpha=0.8, label=None if i else label)
    ax.set(xscale="log", xlim=(3e-16, 3), xlabel="relative error (dotted: optimum)")
    rows_of(ax, names)
    ax.legend(loc="center left")


def plot_times(ax: Any, cells: list[dict[str, Any]]) -> None:
    """The median time of each competitor, filled where the fit is exact up to the noise, for every kind of target."""
    names = list(cells[0]["runs"])
    for cell in cells:
        colour = NOISES[cell["noise"]][0]
        for i, name in enumerate(names):
            run = cell["runs"][name]
            good = max(present(run["error"]) or [1.0]) <= max(1.05 * cell["noise"], 3e-8)
            style = {"marker": "D" if cell["cosine"] else "o", "color": colour, "linestyle": ""}
            ax.plot(
                statistics.median(run["seconds"]),
                i + (0.15 if cell["cosine"] else -0.15),
                fillstyle="full" if good else "none",
                **style,
            )
    ax.set(xscale="log", xlabel="CPU seconds, median")
    ax.set_title("Time; filled: right on every seed; ○ cosine 0, ◇ 0.9")
    rows_of(ax, names)


def plot_large(ax: Any, g: dict[str, Any]) -> None:
    """256³: a point a seed, filled where the error is that of the noise."""
    names = list(g["runs"])
    for i, name in enumerate(names):
        run = g["runs"][name]
        for seconds, error in zip(g["seconds"].get(name, run["seconds"]), run["error"], strict=True):
            good = error is not None and error <= 2 * g["noise"]
            colour = _peers.look(name.split()[0].rstrip(","))["color"]
            ax.plot(seconds, i, "o", color=colour, fillstyle="full" if good else "none", markersize=7)
    ax.set(xscale="log", xlabel="CPU seconds")
    ax.set_title("256³, 10 terms: filled where the error is the noise, 1e-6")
    rows_of(ax, [name.replace(", tol", ",\ntol").replace(", then", ",\nthen") for name in names])


def rows_of(ax: Any, names: list[str]) -> None:
    """The competitors as the labels of a vertical axis, the first one on top."""
    ax.set_yticks(range(len(names)), names, fontsize=8.5)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)


def plot_reported(ax: Any, rows: list[dict[str, Any]]) -> None:
    """Reported over true error; an exact 0 stands on the lower edge."""
    least = 1e-16
    ax.plot([least, 1], [least, 1], color=_style.QUIET, linewidth=1)
    for name in rows[0]:
        more = {"markersize": 3.5, "color": _style.INK, "zorder": 3} if name.endswith("from terms") else {}
        said = [max(row[name]["reported"], least) for row in rows]
        ax.plot([row[name]["error"] for row in rows], said, **_peers.look(name) | {"linestyle": ""} | more)
    ax.text(1e-3, 1.5 * least, "reported: 0.0", color=_style.INK)
    ax.set(xscale="log", yscale="log", xlabel="true error", ylabel="reported error")
    ax.set_title("What is reported, and what is true")
    ax.legend(loc="upper left")


if __name__ == "__main__":
    sys.exit(_study.main(only="reduction"))
