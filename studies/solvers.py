"""Solving Toeplitz systems: time and residual against n, beside Levinson's recursion and dense LU.

Seven families of matrices on which solvers differ; conjugate gradients with circulant preconditioners for positive
definite ones; further right-hand sides through the inverse, which has displacement rank 2; and matrices of low displacement
rank, for which nobody has a solver. A residual is ‖b − T x‖ / (n u ‖T‖₂ ‖x‖), b = T x_0 with random x_0, where the norm of
T is a lower bound from power iteration. Times are CPU seconds of one thread, the median of rounds in random order,
where calls of less than 2 ms are repeated.
"""

import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg

import sepmat as sm
from studies import _peers, _study, _style

STATUS = "reproduced"
LONG = True
U = 2.0**-53
OURS, LEVINSON, LU = "sepmat", "Levinson (SciPy)", "dense LU"
FAMILIES = [
    "general",
    "symmetric indefinite",
    "positive definite, rank 12 + ε",
    "tiny t_0",
    "singular leading minor",
    "decaying",
    "Gaussian kernel + ε",
]
SYMBOLS = {"power law": "(1 + k)^-1.1", "Gaussian": "exp(-k²/18) + 1e-3 δ_k", "KMS": "0.9^k"}
PRECONDITIONERS: dict[str, Callable[[sm.Toeplitz], Any] | None] = {
    "none": None,
    "Strang": sm.strang,
    "T. Chan": sm.t_chan,
    "superoptimal": sm.superoptimal,
}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "residuals": {"n": [16, 32], "draws": 2},
        "times": {},
        "pcg": {"n": [64], "rtol": 1e-10},
        "many": {},
        "displaced": {"n": [32], "terms": [1, 2], "rounds": 0},
    },
    "paper": {
        "residuals": {"n": [16, 64, 256, 1024, 4096, 8192], "draws": 5},
        "times": {"n": [256, 512, 1024, 2048, 4096, 8192], "rounds": 7, "slow": 2},
        "pcg": {"n": [512, 1024, 2048, 4096, 8192], "rtol": 1e-12},
        "many": {"n": [1024, 2048, 4096, 8192], "rounds": 7},
        "displaced": {"n": [512, 1024, 2048, 4096], "terms": [2, 4, 8, 16], "rounds": 3},
    },
}
LOOKS = {
    OURS: ("#D55E00", "o"),
    LEVINSON: ("#0072B2", "s"),
    LU: ("#222222", "D"),
    "Strang": ("#009E73", "^"),
    "T. Chan": ("#CC79A7", "v"),
    "superoptimal": ("#E69F00", "P"),
    "none": ("#999999", "x"),
}


# --- matrices ---------------------------------------------------------------------------------------------------------


def toeplitz(family: str, n: int, rng: Any) -> tuple[Any, Any]:
    """First column and row. The ε of the Gaussian kernel grows with n: at 1e-12 it is singular to n u from n = 900 on."""
    k = np.arange(n)
    c, r = rng.standard_normal(n), rng.standard_normal(n)
    if family == "symmetric indefinite":
        r = c
    elif family == "positive definite, rank 12 + ε":
        angles, weights = rng.uniform(0, np.pi, 6), 10.0 ** rng.uniform(-3, 0, 6)
        c = (weights[:, None] * np.cos(np.outer(angles, k))).sum(axis=0)
        c[0] += 10.0 ** rng.uniform(-8, -1)
        r = c
    elif family == "tiny t_0":
        c[0] = 10.0 ** rng.uniform(-15, -8)
    elif family == "singular leading minor":
        c[0], r[1] = 1.0, (1 + 1e-12) / c[1]
    elif family == "decaying":
        c, r = c * (1.0 + k) ** -1.1, r * (1.0 + k) ** -1.1
        c[0] = 2.0
    elif family == "Gaussian kernel + ε":
        c = np.exp(-((k / rng.uniform(1, 4)) ** 2) / 2)
        c[0] += 1e-12 * max(1.0, n / 256)
        r = c
    r = r.copy()
    r[0] = c[0]
    return c, r


def symbol(name: str, n: int) -> Any:
    """First column of a positive definite matrix."""
    k = np.arange(float(n))
    if name == "power law":
        return (1 + k) ** -1.1
    return np.exp(-(k**2) / 18) + 1e-3 * (k == 0) if name == "Gaussian" else 0.9**k


def times_vector(c: Any, r: Any, x: Any) -> Any:
    """T x, in extended precision where the machine has it, by SciPy's FFT: not by the library."""
    wide = [np.asarray(v, np.longdouble) for v in (c, r, x)]
    n = len(c)
    size = scipy.fft.next_fast_len(2 * n - 1, real=True)
    t = np.concatenate((wide[0], np.zeros(size - 2 * n + 1, np.longdouble), wide[1][:0:-1]))
    return scipy.fft.irfft(scipy.fft.rfft(t) * scipy.fft.rfft(wide[2], size), size)[:n]


def spectral_norm(c: Any, r: Any) -> float:
    """A lower bound of ‖T‖₂: power iteration on TᵀT."""
    x = np.random.default_rng(0).standard_normal(len(c))
    value = 0.0
    for _ in range(12):
        y = np.asarray(times_vector(c, r, x / np.linalg.norm(x)), float)
        value = max(value, float(np.linalg.norm(y)))
        x = np.asarray(times_vector(r, c, y), float)
    return value


def ratio(c: Any, r: Any, x: Any, b: Any, size: float) -> float:
    """‖b − T x‖ / (n u ‖T‖₂ ‖x‖)."""
    rest = float(np.linalg.norm((b - times_vector(c, r, x)).astype(float)))
    value = rest / (len(c) * U * size * float(np.linalg.norm(x)))
    return value if np.isfinite(value) else float("inf")


# --- what is measured -------------------------------------------------------------------------------------------------


def residuals(job: tuple[str, int, int]) -> dict[str, Any]:
    """The largest residual of the draws of one family at one size."""
    family, n, draws = job
    rng = np.random.default_rng([n, FAMILIES.index(family)])
    found: dict[str, list[float]] = {OURS: [], LEVINSON: []} | ({LU: []} if n <= 1024 else {})
    with _peers.one_thread():
        for _ in range(draws if n <= 1024 else min(draws, 2)):
            c, r = toeplitz(family, n, rng)
            b = np.asarray(times_vector(c, r, rng.standard_normal(n)), float)
            size = spectral_norm(c, r)
            found[OURS].append(ratio(c, r, sm.solve(sm.Toeplitz(c, r), b), b, size))
            try:
                found[LEVINSON].append(ratio(c, r, scipy.linalg.solve_toeplitz((c, r), b), b, size))
            except np.linalg.LinAlgError:
                found[LEVINSON].append(float("inf"))
            if LU in found:
                found[LU].append(ratio(c, r, np.linalg.solve(scipy.linalg.toeplitz(c, r), b), b, size))
    worst = {name: max(values) for name, values in found.items()}
    return {"family": family, "n": n, "worst": {k: v if np.isfinite(v) else None for k, v in worst.items()}}


def race(calls: dict[str, Callable[[], Any]], rounds: int, slow: int, rng: Any) -> dict[str, float]:
    """Median seconds; LU of a large matrix takes part in `slow` rounds only."""
    few = {k: f for k, f in calls.items() if k == LU}
    seconds = _peers.rounds(calls, slow, rng, repeated=True) if few else {k: [] for k in calls}
    more = _peers.rounds({k: f for k, f in calls.items() if k not in few}, rounds - slow, rng, repeated=True)
    return {k: statistics.median([*seconds[k], *more.get(k, [])]) for k in calls}


def general_times(n: int, p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """One general matrix, one right-hand side; every call starts from the two vectors."""
    c, r = toeplitz("general", n, rng)
    b = np.asarray(times_vector(c, r, rng.standard_normal(n)), float)
    calls: dict[str, Callable[[], Any]] = {
        OURS: lambda: sm.solve(sm.Toeplitz(c, r), b),
        LEVINSON: lambda: scipy.linalg.solve_toeplitz((c, r), b),
        LU: lambda: np.linalg.solve(scipy.linalg.toeplitz(c, r), b),
    }
    return {"n": n, "seconds": race(calls, p["rounds"], p["slow"], rng)}


def definite_times(name: str, n: int, p: dict[str, Any], rtol: float, rng: Any) -> dict[str, Any]:
    """A positive definite matrix: conjugate gradients from the vector on, the preconditioner included."""
    c = symbol(name, n)
    b = np.asarray(times_vector(c, c, rng.standard_normal(n)), float)

    def pcg(circulant: Callable[[sm.Toeplitz], Any]) -> Any:
        T = sm.Toeplitz(c)
        return sm.interop.cg(T, b, rtol=rtol, M=sm.inverse(circulant(T))).x

    calls: dict[str, Callable[[], Any]] = {
        "Strang": lambda: pcg(sm.strang),
        "T. Chan": lambda: pcg(sm.t_chan),
        OURS: lambda: sm.solve(sm.Toeplitz(c), b),
        LEVINSON: lambda: scipy.linalg.solve_toeplitz(c, b),
    }
    seconds = race(calls, p["rounds"], 0, rng)
    rest = {
        k: float(np.linalg.norm((b - times_vector(c, c, f())).astype(float)) / np.linalg.norm(b))
        for k, f in calls.items()
    }
    return {"symbol": name, "n": n, "seconds": seconds, "residual": rest}


def iterations(name: str, n: int, rtol: float, rng: Any) -> dict[str, Any]:
    """Steps of conjugate gradients with each preconditioner, and the true residual they end with."""
    c = symbol(name, n)
    T, b = sm.Toeplitz(c), rng.standard_normal(n)
    out: dict[str, Any] = {}
    for kind, circulant in PRECONDITIONERS.items():
        M = None if circulant is None else sm.inverse(circulant(T))
        found = sm.interop.cg(T, b, rtol=rtol, M=M, maxiter=5000)
        rest = float(np.linalg.norm((b - times_vector(c, c, found.x)).astype(float)) / np.linalg.norm(b))
        out[kind] = {"iterations": found.iterations, "residual": rest}
    return {"symbol": name, "n": n, "found": out}


def further(n: int, rounds: int, rng: Any) -> dict[str, Any]:
    """One more right-hand side once the matrix is factorized."""
    c, r = toeplitz("general", n, rng)
    b = np.asarray(times_vector(c, r, rng.standard_normal(n)), float)
    T = sm.Toeplitz(c, r)
    F, M = sm.factorize(T), sm.inverse(T)
    lu = scipy.linalg.lu_factor(scipy.linalg.toeplitz(c, r), check_finite=False)
    calls: dict[str, Callable[[], Any]] = {
        "inverse": lambda: M @ b,
        "factorize": lambda: F.solve(b),
        LU: lambda: scipy.linalg.lu_solve(lu, b, check_finite=False),
    }
    seconds = _peers.rounds(calls, rounds, rng, repeated=True)
    size = spectral_norm(c, r)
    return {
        "n": n,
        "seconds": {k: statistics.median(v) for k, v in seconds.items()},
        "residual": {k: ratio(c, r, f(), b, size) for k, f in calls.items()},
    }


def displaced(n: int, terms: int, rounds: int, rng: Any) -> dict[str, Any]:
    """A random matrix of this displacement rank."""
    W = sm.LowDisplacementRank(rng.standard_normal((n, terms)), rng.standard_normal((n, terms)))
    x0 = rng.standard_normal(n)
    D = W.to_dense()
    b = D @ x0
    x = sm.solve(W, b)
    wide = np.asarray(b, np.longdouble)
    rest = (
        float(np.linalg.norm((wide - D.astype(np.longdouble) @ x).astype(float)))
        if n <= 2048
        else float(np.linalg.norm(b - D @ x))
    )
    y = rng.standard_normal(n)
    for _ in range(12):
        y = D.T @ (D @ (y / np.linalg.norm(y)))
    size = float(np.sqrt(np.linalg.norm(y)))
    out: dict[str, Any] = {"n": n, "terms": terms, "residual": rest / (n * U * size * float(np.linalg.norm(x)))}
    if rounds:
        calls: dict[str, Callable[[], Any]] = {OURS: lambda: sm.solve(W, b), LU: lambda: np.linalg.solve(D, b)}
        out["seconds"] = {k: statistics.median(v) for k, v in _peers.rounds(calls, rounds, rng).items()}
    return out


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Residuals on all processors, all that is timed alone."""
    e, t, g, many, w = p["residuals"], p["times"], p["pcg"], p["many"], p["displaced"]
    jobs = [(family, n, e["draws"]) for n in e["n"] for family in FAMILIES]
    out: dict[str, Any] = {"residuals": _study.parallel(residuals, jobs, "residuals")}
    with _peers.one_thread():
        out["pcg"] = [
            iterations(name, n, g["rtol"], rng)
            for n in _study.progress(g["n"], "conjugate gradients")
            for name in SYMBOLS
        ]
        if t:
            out["general"] = [general_times(n, t, rng) for n in _study.progress(t["n"], "general")]
            out["definite"] = [
                definite_times(name, n, t, g["rtol"], rng)
                for n in _study.progress(t["n"], "positive definite")
                for name in SYMBOLS
            ]
            out["further"] = [further(n, many["rounds"], rng) for n in _study.progress(many["n"], "further solves")]
        cells = [(n, r) for n in w["n"] for r in w["terms"]]
        out["displaced"] = [displaced(n, r, w["rounds"], rng) for n, r in _study.progress(cells, "displacement rank")]
    return out


# --- what comes out ---------------------------------------------------------------------------------------------------


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """The goals, each with the number that decides."""
    rows = numbers["residuals"]
    worst = max(row["worst"][OURS] for row in rows)
    top = max(row["n"] for row in rows)
    out = {f"residual at most 1 n u on all seven families, n to {top}: {worst:.2g}": worst <= 1}
    if top >= 256:
        spoilt = max(row["worst"][LEVINSON] or np.inf for row in rows)
        out[f"Levinson's residual reaches 1e6 n u and more without a word: {spoilt:.1g}"] = spoilt >= 1e6
    rest = max(row["residual"] for row in numbers["displaced"])
    ranks = sorted({row["terms"] for row in numbers["displaced"]})
    out[f"displacement rank {ranks[0]} to {ranks[-1]}: residual at most 1 n u: {rest:.2g}"] = rest <= 1
    counts = {name: {row["n"]: row["found"] for row in numbers["pcg"] if row["symbol"] == name} for name in SYMBOLS}
    for name, found in counts.items():
        first, last = found[min(found)], found[max(found)]
        a, b = first["Strang"]["iterations"], last["Strang"]["iterations"]
        plain = last["none"]["iterations"]
        text = f"{name}: Strang's preconditioner takes {a} iterations at n = {min(found)}, {b} at {max(found)}, none {plain}"
        out[text] = b <= a + 2 and 2 * b < plain
    return out | (timed_claims(numbers) if "general" in numbers else {})


def timed_claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """What only the clock can tell."""
    out: dict[str, bool] = {}
    general = {row["n"]: row["seconds"] for row in numbers["general"]}
    times = general[4096][OURS] / general[4096][LEVINSON]
    out[f"general, n = 4096: at most 4 times Levinson's time: {times:.1f}"] = times <= 4
    times = general[8192][LU] / general[8192][OURS]
    out[f"general, n = 8192: at least 5 times faster than dense LU: {times:.1f}"] = times >= 5
    for row in numbers["definite"]:
        if row["n"] == 8192:
            times = row["seconds"][LEVINSON] / row["seconds"]["Strang"]
            rest = row["residual"]["Strang"]
            text = f"positive definite, {row['symbol']}, n = 8192: conjugate gradients with Strang's circulant at least 20 times"
            out[f"{text} faster than Levinson, residual {rest:.0e}: {times:.0f}"] = times >= 20 and rest <= 1e-11
    last = max(numbers["further"], key=lambda row: row["n"])
    times = last["seconds"][LU] / last["seconds"]["inverse"]
    out[
        f"further right-hand sides, n = 8192: the inverse at least 50 times faster than LU's triangles: {times:.0f}"
    ] = times >= 50
    fit = numbers["displaced"]
    top = max(row["n"] for row in fit)
    at = {row["terms"]: row["seconds"][OURS] for row in fit if row["n"] == top}
    low, high = min(at), max(at)
    growth = at[high] / at[low]
    out[
        f"displacement rank {high} takes at most {high // low} times the time of rank {low}, n = {top}: {growth:.1f}"
    ] = growth <= high // low
    half = {row["terms"]: row["seconds"][OURS] for row in fit if row["n"] == top // 2}
    growth = max(at[r] / half[r] for r in at)
    out[f"twice the size takes at most 5 times as long, n = {top}: {growth:.1f}"] = growth <= 5
    return out


def tables(numbers: dict[str, Any]) -> str:
    """Residuals, times, iterations, further solves, displacement ranks."""
    parts, rows = [], numbers["residuals"]
    sizes = sorted({row["n"] for row in rows})
    cells = {(row["family"], row["n"]): row["worst"] for row in rows}

    def shown(v: float | None) -> str:
        return "fails" if v is None else f"{v:.2g}"

    body = [[family, *(" / ".join(shown(v) for v in cells[family, n].values()) for n in sizes)] for family in FAMILIES]
    parts.append(
        "Largest ‖b − T x‖ / (n u ‖T‖ ‖x‖): sepmat / Levinson (/ dense LU):\n\n"
        + _study.table(["", *(f"n = {n}" for n in sizes)], body)
    )
    if "general" in numbers:
        names = [OURS, LEVINSON, LU]
        body = [[str(row["n"]), *(f"{1e3 * row['seconds'][k]:.3g}" for k in names)] for row in numbers["general"]]
        parts.append("General matrix, milliseconds:\n\n" + _study.table(["n", *names], body))
        names = ["Strang", "T. Chan", OURS, LEVINSON]
        body = [
            [
                row["symbol"],
                str(row["n"]),
                *(f"{1e3 * row['seconds'][k]:.3g} ({row['residual'][k]:.0e})" for k in names),
            ]
            for row in numbers["definite"]
        ]
        text = "Positive definite, milliseconds (‖b − T x‖ / ‖b‖)"
        parts.append(f"{text}:\n\n" + _study.table(["symbol", "n", *names], body))
        names = ["inverse", "factorize", LU]
        body = [
            [str(row["n"]), *(f"{1e3 * row['seconds'][k]:.3g} ({row['residual'][k]:.2g})" for k in names)]
            for row in numbers["further"]
        ]
        text = "One more right-hand side, milliseconds (residual in n u ‖T‖ ‖x‖)"
        parts.append(f"{text}:\n\n" + _study.table(["n", "sm.inverse(T) @ b", "sm.factorize(T).solve(b)", LU], body))
    body = [
        [row["symbol"], str(row["n"]), *(str(row["found"][k]["iterations"]) for k in PRECONDITIONERS)]
        for row in numbers["pcg"]
    ]
    parts.append("Iterations of conjugate gradients:\n\n" + _study.table(["symbol", "n", *PRECONDITIONERS], body))
    body = [
        [str(row["n"]), str(row["terms"]), f"{row['residual']:.2g}"]
        + [f"{1e3 * row['seconds'][k]:.3g}" for k in (OURS, LU) if "seconds" in row]
        for row in numbers["displaced"]
    ]
    head = ["n", "terms", "residual"] + (["sepmat, ms", "dense LU, ms"] if "seconds" in numbers["displaced"][0] else [])
    parts.append("Random matrices of low displacement rank:\n\n" + _study.table(head, body))
    return "\n\n".join(parts)


def plot(numbers: dict[str, Any]) -> Any:
    """Residuals of the families; times; iterations; displacement ranks."""
    timed = "general" in numbers
    figure = _style.figure(15, 9.5 if timed else 5)
    axes = figure.subplots(2 if timed else 1, 3, squeeze=False)
    plot_residuals(axes[0, 0], numbers["residuals"])
    plot_iterations(axes[0, 1], numbers["pcg"])
    plot_displaced(axes[0, 2], numbers["displaced"])
    if timed:
        sizes = [row["n"] for row in numbers["general"]]
        for name in (LU, LEVINSON, OURS):
            line(axes[1, 0], name, sizes, [row["seconds"][name] for row in numbers["general"]])
        axes[1, 0].set_title("General matrix, one right-hand side")
        name = next(iter(SYMBOLS))
        rows = [row for row in numbers["definite"] if row["symbol"] == name]
        for k in (LEVINSON, OURS, "Strang", "T. Chan"):
            label = f"conjugate gradients, {k}" if k in PRECONDITIONERS else k
            line(axes[1, 1], k, sizes, [row["seconds"][k] for row in rows], label=label)
        axes[1, 1].set_title(f"Positive definite: t_k = {SYMBOLS[name]}")
        sizes = [row["n"] for row in numbers["further"]]
        for k, look, label in (
            (LU, LU, "LU's triangles"),
            ("factorize", OURS, "factorize(T).solve(b)"),
            ("inverse", "Strang", "inverse(T) @ b"),
        ):
            line(axes[1, 2], look, sizes, [row["seconds"][k] for row in numbers["further"]], label=label)
        axes[1, 2].set_title("One more right-hand side")
        for ax in axes[1]:
            ax.set(xscale="log", yscale="log", xlabel="n", ylabel="CPU seconds")
            ax.set_xscale("log", base=2)
            ax.legend()
    return figure


def line(ax: Any, name: str, x: list[int], y: list[float], label: str | None = None) -> None:
    colour, marker = LOOKS[name]
    ax.plot(x, y, color=colour, marker=marker, label=label or name)


def plot_residuals(ax: Any, rows: list[dict[str, Any]]) -> None:
    """Every family and size, one row of dots for each solver."""
    for i, family in enumerate(FAMILIES):
        for shift, name in zip((-0.2, 0.0, 0.2), (OURS, LU, LEVINSON), strict=True):
            values = [row["worst"].get(name) for row in rows if row["family"] == family and name in row["worst"]]
            shown = [min(v, 1e16) if v is not None else 1e16 for v in values]
            colour, marker = LOOKS[name]
            ax.plot(shown, [i + shift] * len(shown), marker, color=colour, linestyle="", label=None if i else name)
    ax.axvline(1.0, color=_style.QUIET, linewidth=1)
    ax.set_yticks(range(len(FAMILIES)), FAMILIES)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="‖b − T x‖ / (n u ‖T‖ ‖x‖), all n")
    ax.set_title("Residuals on seven families")
    ax.legend(loc="lower right")


def plot_iterations(ax: Any, rows: list[dict[str, Any]]) -> None:
    """Iterations against n; one style of line for each symbol."""
    for style, name in zip(("-", "--", ":"), SYMBOLS, strict=True):
        found = [row for row in rows if row["symbol"] == name]
        for kind in PRECONDITIONERS:
            colour, marker = LOOKS[kind]
            counts = [row["found"][kind]["iterations"] for row in found]
            label = kind if style == "-" else None
            ax.plot([row["n"] for row in found], counts, color=colour, marker=marker, linestyle=style, label=label)
    ax.set(yscale="log", xlabel="n", ylabel="iterations")
    ax.set_xscale("log", base=2)
    ax.set_title("Conjugate gradients: power law –, Gaussian - -, KMS ···")
    ax.set_ylim(top=10 * ax.get_ylim()[1])  # room for the legend
    ax.legend(loc="upper center", ncols=2)


def plot_displaced(ax: Any, rows: list[dict[str, Any]]) -> None:
    """Time against the number of terms where there is a clock, else residuals."""
    timed = "seconds" in rows[0]
    for n, shade in zip(sorted({row["n"] for row in rows}), (0.35, 0.55, 0.75, 1.0), strict=False):
        found = [row for row in rows if row["n"] == n]
        terms = [row["terms"] for row in found]
        values = [row["seconds"][OURS] if timed else row["residual"] for row in found]
        ax.plot(terms, values, "o-", color=LOOKS[OURS][0], alpha=shade, label=f"n = {n}")
        if timed:
            level = statistics.median(row["seconds"][LU] for row in found)
            ax.plot(terms, [level] * len(terms), "D:", color=LOOKS[LU][0], alpha=shade, markersize=3)
    ax.set(yscale="log", xlabel="terms", ylabel="CPU seconds (dotted: dense LU)" if timed else "residual / n u")
    ax.set_title("Low displacement rank")
    ax.set_ylim(bottom=ax.get_ylim()[0] / 6)  # room for the legend
    ax.legend(loc="lower center", ncols=2)


if __name__ == "__main__":
    sys.exit(_study.main(only="solvers"))
