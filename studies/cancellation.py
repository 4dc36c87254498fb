"""Targets on which the terms of a fit cancel: κ and error beside TensorLy and pyttb, which do not see κ.

Random matrices with more terms than they want; sin(x_1 + … + x_d) from its 2^{d-1} terms to d, from no analytic hint; the
d-dimensional Laplacian, of rank d and border rank 2, from its terms and as a dense matrix.
"""

import math
import statistics
import sys
from typing import Any

import numpy as np

import sepmat as sm
from studies import _peers, _problems, _study, _style

STATUS = "reproduced"
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "processes": 1,
        "random": {"seeds": 2, "ranks": [2], "iterations": 50},
        "sine": {"dimensions": [4], "seeds": 1, "iterations": 50},
        "laplacian": {"dimensions": [3], "ranks": [2], "bounds": [3, 10], "seeds": 1, "iterations": 50},
        "dense": {"cells": [], "iterations": 50},
    },
    "paper": {
        "processes": 2,
        "random": {"seeds": 20, "ranks": [2, 3, 4, 5], "iterations": 5000},
        "sine": {"dimensions": [4, 6, 8, 10], "seeds": 3, "iterations": 1000},
        "laplacian": {
            "dimensions": [3, 4, 5, 6],
            "ranks": [2, 3],
            "bounds": [3, 10, 30, 100],
            "seeds": 2,
            "iterations": 2000,
        },
        "dense": {"cells": [[4, 4], [3, 2], [3, 3]], "iterations": 500},
    },
}
OURS, CAP = "sepmat", 30.0  # the bound on κ of the random matrices


def random(job: tuple[dict[str, Any], int, int]) -> dict[str, Any]:
    """A random 8 × 8 matrix as terms of 2×2 ⊗ 2×2 ⊗ 2×2."""
    p, rank, seed = job
    M, shapes = np.random.default_rng(1000 + seed).standard_normal((8, 8)), [(2, 2)] * 3
    T = sm.rearrange(M, shapes)
    calls = {
        OURS: _peers.sepmat(sm.nearest_separated, M, shapes, rank=rank, max_condition=CAP),
        "pyttb": _peers.pyttb(T, rank, seed=seed, stoptol=0.0, maxiters=p["iterations"]),
    }
    return {name: _peers.run(call, lambda A: _peers.true_error(T, A)) for name, call in calls.items()}


def sine(job: tuple[dict[str, Any], int]) -> dict[str, Any]:
    """sin(x_1 + … + x_d): 2^{d-1} terms to d."""
    p, d = job
    return fewer_terms(_problems.sine(d), d, p, _problems.sine_pair(d), [])


def laplacian(job: tuple[dict[str, Any], int, int]) -> dict[str, Any]:
    """The Laplacian from its d terms to fewer under each bound on κ, or to d."""
    p, d, rank = job
    L = _problems.laplacian(d)
    return fewer_terms(L, rank, p, L, p["bounds"] if rank < d else [])


def fewer_terms(
    A: sm.Separated, rank: int, p: dict[str, Any], exact: sm.Separated, bounds: list[float]
) -> dict[str, Any]:
    """A with fewer terms, by sepmat and by pyttb from several starts; residuals by the QR sweep against `exact`."""
    norm = float(sm.norm(exact))

    def residual(answer: Any) -> float:
        B = _peers.separated(answer, A.shapes) if isinstance(answer, tuple) else answer
        return float(sm.distance(exact, B)) / norm

    calls = {f"{OURS}, κ ≤ {b:g}": _peers.sepmat(sm.compress, A, rank=rank, max_condition=b) for b in bounds}
    calls = calls or {OURS: _peers.sepmat(sm.compress, A, rank=rank)}
    for seed in range(p["seeds"]):
        settings = {"stoptol": 1e-15, "maxiters": p["iterations"]}
        calls[f"pyttb, seed {seed}"] = _peers.pyttb(_peers.terms_of(A), rank, seed=seed, **settings)
    return {name: _peers.run(call, residual) for name, call in calls.items()}


def dense(job: tuple[dict[str, Any], int, int]) -> dict[str, Any]:
    """The Laplacian as a dense matrix; 134 MB for d = 4."""
    p, d, rank = job
    M, shapes = _problems.laplacian(d).to_dense(), [(8, 8)] * d
    T = sm.rearrange(M, shapes)
    bound = {"max_condition": 10.0} if rank < d else {}
    calls = {
        OURS: _peers.sepmat(sm.nearest_separated, M, shapes, rank=rank, **bound),
        "TensorLy": _peers.tensorly(T, rank, tol=1e-15, n_iter_max=p["iterations"]),
        "pyttb": _peers.pyttb(T, rank, stoptol=1e-15, maxiters=p["iterations"]),
    }
    return {name: _peers.run(call, lambda A: _peers.true_error(T, A)) for name, call in calls.items()}


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """All problems, on all processors; the competitors of one problem run in one process, one after the other."""
    r, s, l, f = p["random"], p["sine"], p["laplacian"], p["dense"]
    dense_cells = [{"d": d, "rank": rank} for d, rank in f["cells"]]
    sines = [{"d": d} for d in reversed(s["dimensions"])]
    cells = [{"d": d, "rank": rank} for d in l["dimensions"] for rank in sorted({*l["ranks"], d})]
    draws = [{"rank": rank, "seed": seed} for rank in r["ranks"] for seed in range(r["seeds"])]

    def runs(work: Any, settings: dict[str, Any], cells: list[dict[str, int]], label: str) -> list[dict[str, Any]]:
        jobs = [(settings, *cell.values()) for cell in cells]
        done = _study.parallel(work, jobs, label, p["processes"])
        return [cell | {"runs": found} for cell, found in zip(cells, done, strict=True)]

    return {
        "dense": runs(dense, f, dense_cells, "dense Laplacian"),
        "sine": runs(sine, s, sines, "sine")[::-1],
        "laplacian": runs(laplacian, l, cells, "Laplacian"),
        "random": runs(random, r, draws, "random matrices"),
    }


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """The goals, each with the number that decides; the smoke preset has fewer."""
    out: dict[str, bool] = {}
    out["random matrices: κ at most 30 in every result"] = max(of_random(numbers, OURS, "kappa")) <= CAP
    out["sine: error at most 1e-12, κ within 1 % of the analytic √(2^(d−1)/d), from no hint"] = all(
        cell["runs"][OURS]["error"] <= 1e-12 and abs(cell["runs"][OURS]["kappa"] / analytic(cell["d"]) - 1) <= 0.01
        for cell in numbers["sine"]
    )
    out["Laplacian, d terms: error at most 1e-12 with κ below 1"] = all(
        cell["runs"][OURS]["error"] <= 1e-12 and cell["runs"][OURS]["kappa"] < 1
        for cell in numbers["laplacian"] + numbers["dense"]
        if cell["rank"] == cell["d"]
    )
    few = [cell["runs"] for cell in numbers["laplacian"] if cell["rank"] < cell["d"]]
    out["Laplacian, fewer than d terms: κ at most its bound, 3 to 100, in every result"] = all(
        run["kappa"] <= float(name.split()[-1]) for runs in few for name, run in runs.items() if name.startswith(OURS)
    )
    out["Laplacian, 2 terms: a smaller error at κ ≤ 10 than pyttb from every start, at any κ"] = all(
        cell["runs"][f"{OURS}, κ ≤ 10"]["error"] < run["error"]
        for cell in numbers["laplacian"]
        if cell["rank"] == 2
        for run in peers(cell["runs"])
        if "error" in run
    )
    if not numbers["dense"]:
        return out
    out["Laplacian, 2 and 3 terms: pyttb never reaches a smaller error with a smaller κ"] = all(
        run["error"] > ours["error"] or run["kappa"] > ours["kappa"]
        for runs in few
        for run in peers(runs)
        if "error" in run
        for name, ours in runs.items()
        if name.startswith(OURS)
    )
    out["Laplacian, dense, d = 4: at least 3 times faster than pyttb, 20 times faster than TensorLy"] = all(
        cell["runs"][name]["seconds"] >= factor * cell["runs"][OURS]["seconds"]
        for cell in numbers["dense"]
        if cell["d"] == 4
        for name, factor in (("pyttb", 3), ("TensorLy", 20))
    )
    out["sine, d = 10: 512 to 10 terms with κ at most 15; pyttb ends above 1e-7 with κ above 1000, or fails"] = all(
        cell["runs"][OURS]["kappa"] <= 15
        and all("failed" in run or (run["error"] > 1e-7 and run["kappa"] > 1000) for run in peers(cell["runs"]))
        for cell in numbers["sine"]
        if cell["d"] == 10
    )
    ranks = sorted({cell["rank"] for cell in numbers["random"]})
    out["random matrices: for every number of terms the median error is at most that of pyttb + 0.5 %"] = all(
        median(of_random(numbers, OURS, "error", r)) <= 1.005 * median(of_random(numbers, "pyttb", "error", r))
        for r in ranks
    )
    pairs = [
        (c["runs"][OURS]["error"], c["runs"]["pyttb"]["error"])
        for c in numbers["random"]
        if "error" in c["runs"]["pyttb"]
    ]
    out["random matrices: no error is more than 2 % above that of pyttb, which has no bound on κ"] = all(
        ours <= 1.02 * peer for ours, peer in pairs
    )
    out["random matrices, 5 terms: κ of pyttb goes above 300"] = max(of_random(numbers, "pyttb", "kappa", 5)) > 300
    return out


def peers(runs: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of the others."""
    return [run for name, run in runs.items() if not name.startswith(OURS)]


def of_random(numbers: dict[str, Any], name: str, key: str, rank: int | None = None) -> list[float]:
    """A quantity of all random matrices (with so many terms), where the competitor did not fail."""
    cells = [cell["runs"][name] for cell in numbers["random"] if rank in (None, cell["rank"])]
    return [run[key] for run in cells if run.get(key) is not None]


def median(values: list[float]) -> float:
    """The median."""
    return statistics.median(values)


def analytic(d: int) -> float:
    """κ of the d analytic terms of sin(x_1 + … + x_d) with equispaced shifts."""
    return math.sqrt(2 ** (d - 1) / d)


def tables(numbers: dict[str, Any]) -> str:
    """A table for each kind of target."""
    rows = []
    for rank in sorted({cell["rank"] for cell in numbers["random"]}):
        for name in (OURS, "pyttb"):
            k, e = sorted(of_random(numbers, name, "kappa", rank)), of_random(numbers, name, "error", rank)
            spread = [f"{v:.3g}" for v in (median(k), k[round(0.9 * (len(k) - 1))], k[-1])]
            seconds = median(of_random(numbers, name, "seconds", rank))
            rows.append([rank, name, f"{median(e):.4f}", *spread, f"{seconds:.2f}"])
    head = ["terms", "", "median error", "median κ", "90 % of κ", "largest κ", "CPU seconds"]
    parts = ["Random 8×8 matrices as terms of 2×2 ⊗ 2×2 ⊗ 2×2, sepmat with κ ≤ 30:\n\n" + _study.table(head, rows)]
    rows = [
        [c["d"], f"{2 ** (c['d'] - 1)} → {c['d']}", f"{analytic(c['d']):.4g}", *map(text_of, c["runs"].values())]
        for c in numbers["sine"]
    ]
    head = ["d", "terms", "analytic κ", *numbers["sine"][0]["runs"]]
    parts.append("sin(x₁ + … + x_d), error / κ, CPU time:\n\n" + _study.table(head, rows))
    for key, words in (("laplacian", "from its d terms"), ("dense", "as a dense matrix, κ ≤ 10 below d terms")):
        names = list(dict.fromkeys(name for cell in numbers[key] for name in cell["runs"]))
        rows = [
            [c["d"], c["rank"], *(text_of(c["runs"][name]) if name in c["runs"] else "" for name in names)]
            for c in numbers[key]
        ]
        if rows:
            text = f"Laplacian {words}, error / κ, CPU time"
            parts.append(f"{text}:\n\n" + _study.table(["d", "terms", *names], rows))
    return "\n\n".join(parts)


def text_of(run: dict[str, Any]) -> str:
    """error / κ, seconds of one run."""
    return "LinAlgError" if "failed" in run else f"{run['error']:.2e} / {run['kappa']:.3g}, {run['seconds']:.2f} s"


def plot(numbers: dict[str, Any]) -> Any:
    """κ of the random matrices, matrix by matrix; error over κ of sine and Laplacian."""
    figure = _style.figure(15, 5.2)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.1, 1, 1])
    plot_random(left, numbers)
    plot_sine(middle, numbers["sine"])
    plot_laplacian(right, [c for c in numbers["laplacian"] if c["rank"] < c["d"]])
    return figure


def plot_random(ax: Any, numbers: dict[str, Any]) -> None:
    """The κ of every matrix, sorted, for each number of terms."""
    ranks = sorted({cell["rank"] for cell in numbers["random"]})
    for name in ("pyttb", OURS):
        for i, rank in enumerate(ranks):
            k = sorted(of_random(numbers, name, "kappa", rank))
            x = i + np.linspace(-0.38, 0.38, len(k))
            ax.plot(x, k, **_peers.look(name) | {"linestyle": "", "label": None if i else name})
    ax.axhline(CAP, color=_style.QUIET, linewidth=1, linestyle=":")
    ax.set(
        yscale="log", ylabel="κ, matrices sorted by κ (dotted: the bound 30)", xlabel="terms; below, the median errors"
    )
    labels = []
    for rank in ranks:
        ours, peer = (median(of_random(numbers, name, "error", rank)) for name in (OURS, "pyttb"))
        labels.append(f"{rank}\nsepmat {ours:.4f}\npyttb {peer:.4f}")
    ax.set_xticks(range(len(ranks)), labels)
    ax.set_title("Random 8×8 matrices, terms of 2×2 ⊗ 2×2 ⊗ 2×2")
    ax.legend(loc="upper left")


def plot_sine(ax: Any, cells: list[dict[str, Any]]) -> None:
    """Error over κ; the number at a point is d."""
    for i, cell in enumerate(cells):
        for name, run in cell["runs"].items():
            if "error" not in run:
                continue
            package, *more = name.split(", ")
            label = package if not i and more in ([], ["seed 0"]) else None
            look = _peers.look(package, label=label, markersize=8, linestyle="")
            ax.plot(run["kappa"], run["error"], **look)
            place = {"xytext": (6, 3), "textcoords": "offset points", "fontsize": 9}
            ax.annotate(str(cell["d"]), (run["kappa"], run["error"]), color=look["color"], **place)
    ax.set(xscale="log", yscale="log", xlabel="κ", ylabel="relative error")
    ax.set_title("sin(x₁ + … + x_d) with d terms; the number is d")
    ax.legend(loc="lower right")


def plot_laplacian(ax: Any, cells: list[dict[str, Any]]) -> None:
    """Error over κ: sepmat along its bounds, a point of pyttb for every start; filled for 2 terms, open for 3."""
    labels = set()
    for cell in cells:
        for package in (OURS, "pyttb"):
            found = [run for name, run in cell["runs"].items() if name.startswith(package) and "error" in run]
            look = _peers.look(package, label=f"{package}, {cell['rank']} terms", linestyle="", markersize=7)
            look |= {"fillstyle": "full", "linewidth": 0.8} if cell["rank"] == 2 else {"fillstyle": "none"}
            look |= {"markeredgecolor": look["color"]} | ({"linestyle": ":"} if package == OURS else {})
            if look["label"] in labels:
                look["label"] = None
            labels.add(look["label"])
            ax.plot([run["kappa"] for run in found], [run["error"] for run in found], **look)
            if package == "pyttb":
                for run in found:
                    place = {"xytext": (6, 3), "textcoords": "offset points", "fontsize": 9}
                    ax.annotate(str(cell["d"]), (run["kappa"], run["error"]), color=look["color"], **place)
    ax.set(xscale="log", yscale="log", xlabel="κ", ylabel="relative error")
    ax.set_title("Laplacian, d = 3 … 6, bounds on κ 3 … 100")
    ax.legend(loc="lower left")


if __name__ == "__main__":
    sys.exit(_study.main(only="cancellation"))
