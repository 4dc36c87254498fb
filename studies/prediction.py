"""Linear prediction of three real series by Toeplitz systems of high order, and where Levinson's error shows.

Sea surface temperature (El Niño region, monthly), CO₂ at Mauna Loa (weekly, differences) and sunspots (yearly), read in
place from statsmodels. The best linear predictor of order n solves T w = (r_h, …, r_{h+n-1}) with T the Toeplitz matrix of
autocovariances r (Wiener, Yule–Walker). Four kinds of systems, all with real numbers in them:

    biased      r_k divided by N: T is positive definite
    adjusted    r_k divided by N − k, the default of statsmodels' yule_walker: T is indefinite at high order
    high lag    T_ij = r_{q+i-j}, which leaves out the lags that noise disturbs: T is not symmetric, its minors are arbitrary
    one bit     the same of the signs of the series, as a one-bit correlator counts them: r_q is 0 for some q

Residuals are ‖b − T x‖ / (n u ‖T‖₂ ‖x‖), in extended precision.
"""

import math
import sys
from typing import Any

import numpy as np
import scipy.linalg

import sepmat as sm
from studies import _peers, _study, _style

STATUS = "illustration"
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"orders": [25, 50, 100], "size": 50, "delays": 40, "forecasts": [12, 48, 96], "origins": 4},
    "paper": {
        "orders": [25, 50, 100, 200, 400, 800],
        "size": 300,
        "delays": 160,
        "forecasts": [6, 12, 24, 48, 96, 192, 288, 384, 480],
        "origins": 15,
    },
}
HORIZON, YEAR = 24, 12  # months
LOOKS = {
    "sm.solve": ("#D55E00", "o"),
    "dense LU": ("#0072B2", "s"),
    "Cholesky": ("#56B4E9", "v"),
    "SciPy solve_toeplitz": ("#009E73", "^"),
    "statsmodels levinson_durbin": ("#E69F00", "D"),
}
KINDS = ("biased", "adjusted", "high lag")


# --- the series -------------------------------------------------------------------------------------------------------


def series() -> dict[str, Any]:
    """The three series, oldest value first; the one missing stretch of CO₂ is interpolated."""
    from statsmodels import datasets

    months = datasets.elnino.load_pandas().data.to_numpy()[:, 1:].ravel()
    weeks = datasets.co2.load_pandas().data.co2.interpolate().dropna().to_numpy()
    return {
        "temperature": months,
        "CO₂": np.diff(weeks),
        "sunspots": datasets.sunspots.load_pandas().data.SUNACTIVITY.to_numpy(),
    }


def autocovariances(x: Any, adjusted: bool = False) -> Any:
    """r_0 … r_{N-1}, each a sum of products as statsmodels takes it, over N or N − k."""
    x, N = x - x.mean(), len(x)
    r = np.correlate(x, x, "full")[N - 1 :]
    return r / (N - np.arange(N)) if adjusted else r / N


def system(r: Any, n: int, q: int = 0) -> tuple[Any, Any, Any]:
    """First column, first row and right-hand side of Σ_j r_{q+i-j} x_j = r_{q+1+i}."""
    i = np.arange(n)
    return r[q + i], r[np.abs(q - i)], r[q + 1 + i]


# --- solvers ----------------------------------------------------------------------------------------------------------


def solutions(c: Any, row: Any, b: Any) -> dict[str, Any]:
    """What every solver that takes the system returns, or the message of its error."""
    from statsmodels.tsa.stattools import levinson_durbin

    T = scipy.linalg.toeplitz(c, row)
    calls = {
        "sm.solve": lambda: sm.solve(sm.Toeplitz(c, row), b),
        "dense LU": lambda: np.linalg.solve(T, b),
        "SciPy solve_toeplitz": lambda: scipy.linalg.solve_toeplitz((c, row), b),
    }
    if np.array_equal(c, row):
        calls["Cholesky"] = lambda: scipy.linalg.cho_solve(scipy.linalg.cho_factor(T), b)
        calls["statsmodels levinson_durbin"] = lambda: (
            levinson_durbin(np.append(c, b[-1]), nlags=len(c), isacov=True).arcoefs
        )
    found: dict[str, Any] = {}
    with _peers.one_thread():
        for name, call in calls.items():
            try:
                found[name] = call()
            except np.linalg.LinAlgError as error:
                found[name] = str(error).split(":")[0]
    return found


def residuals(c: Any, row: Any, b: Any) -> dict[str, Any]:
    """‖b − T x‖ / (n u ‖T‖₂ ‖x‖) of each solver (None where it raised), and the condition of T."""
    T = scipy.linalg.toeplitz(c, row)
    values = np.linalg.svd(T, compute_uv=False)
    exact, unit = T.astype(np.longdouble), len(b) * 2.0**-53 * values[0]
    out: dict[str, Any] = {}
    for name, x in solutions(c, row, b).items():
        if isinstance(x, str):
            out[name], out["error"] = None, x
        else:
            out[name] = float(np.linalg.norm((b - exact @ x).astype(float)) / (unit * np.linalg.norm(x)))
    return out | {"condition": values[0] / values[-1]}


# --- forecasts --------------------------------------------------------------------------------------------------------


def forecast(past: Any, n: int, adjusted: bool, solver: str) -> Any:
    """The next HORIZON values by the best linear predictors of order n: one Toeplitz matrix, HORIZON right-hand sides."""
    mean, r = past.mean(), autocovariances(past, adjusted)
    B = np.stack([r[h : h + n] for h in range(1, HORIZON + 1)], axis=1)
    if solver == "sm.solve":
        W = sm.solve(sm.Toeplitz(r[:n]), B)
    elif solver == "SciPy solve_toeplitz":
        W = scipy.linalg.solve_toeplitz(r[:n], B)
    else:
        W = np.linalg.solve(scipy.linalg.toeplitz(r[:n]), B)
    return mean + W.T @ (past[: -n - 1 : -1] - mean)


def held_out(x: Any, p: dict[str, Any]) -> dict[str, Any]:
    """Root mean square error of forecasts from rolling origins, one a year, each from the values before it only."""
    origins = [len(x) - HORIZON - YEAR * k for k in range(p["origins"])]
    orders = [n for n in p["forecasts"] if n + HORIZON < origins[-1]]

    def error(predict: Any) -> float:
        return float(np.sqrt(np.mean([np.square(predict(x[:o]) - x[o : o + HORIZON]) for o in origins])))

    found: dict[str, Any] = {"orders": orders}
    for kind, adjusted, solver in (
        ("biased", False, "sm.solve"),
        ("biased, SciPy", False, "SciPy solve_toeplitz"),
        ("biased, LU", False, "dense LU"),
        ("adjusted", True, "sm.solve"),
    ):
        found[kind] = [
            error(lambda past: forecast(past, n, adjusted, solver))  # noqa: B023
            for n in _study.progress(orders, f"forecasts, {kind}")
        ]
    found["last year again"] = error(lambda past: np.tile(past[-YEAR:], HORIZON // YEAR))
    best = orders[int(np.argmin(found["biased"]))]
    start, shown = len(x) - HORIZON, 8 * YEAR
    found["best order"] = best
    found["shown"] = {
        "before": x[start - shown : start],
        "truth": x[start:],
        "forecast": forecast(x[:start], best, False, "sm.solve"),
        "last year again": np.tile(x[start - YEAR : start], HORIZON // YEAR),
    }
    return found


# --- the study --------------------------------------------------------------------------------------------------------


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Residuals against the order and the delay, the one-bit correlator, and forecasts of held-out values."""
    data = series()
    r = {kind: autocovariances(data["CO₂"], kind == "adjusted") for kind in KINDS}
    orders: dict[str, Any] = {kind: [] for kind in KINDS}
    for n in _study.progress(p["orders"], "orders"):
        for kind in KINDS:
            q = n // 2 if kind == "high lag" else 0
            orders[kind].append(residuals(*system(r[kind], n, q)))
    delays = {}
    for name, size in (("CO₂", p["size"]), ("temperature", p["size"] // 2), ("sunspots", p["size"] // 6)):
        found = autocovariances(data[name])
        count = min(p["delays"], len(found) - 2 * size - 1)
        rows = [residuals(*system(found, size, q)) for q in _study.progress(range(1, count), f"delays, {name}")]
        delays[name] = {"order": size, "delays": list(range(1, count))} | {
            key: [row[key] for row in rows] for key in ("sm.solve", "dense LU", "SciPy solve_toeplitz", "condition")
        }
    return {
        "lengths": {name: len(x) for name, x in data.items()},
        "orders": p["orders"],
        "residuals": orders,
        "delays": delays,
        "one bit": one_bit(data["sunspots"]),
        "held out": held_out(data["temperature"], p),
    }


def one_bit(x: Any) -> dict[str, Any]:
    """The first lag at which agreements and disagreements of signs balance, and the system of order 50 there."""
    signs = np.where(x >= np.median(x), 1.0, -1.0)
    r = np.correlate(signs, signs, "full")[len(x) - 1 :]
    q = int(np.flatnonzero(r == 0)[0])
    return {"lag": q, "order": 50} | residuals(*system(r, 50, q))


def everything(numbers: dict[str, Any], solver: str) -> list[float | None]:
    """All residuals of one solver."""
    rows = [row[solver] for kind in KINDS for row in numbers["residuals"][kind] if solver in row]
    return [*rows, *(v for d in numbers["delays"].values() for v in d.get(solver, [])), numbers["one bit"][solver]]


def worst(values: list[float | None]) -> float:
    """The largest residual; a solver that refused has an infinite one."""
    return max(math.inf if v is None else v for v in values)


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """Where Levinson is safe, where it is not, and whether a forecast notices."""
    levinson = "SciPy solve_toeplitz"
    biased = numbers["residuals"]["biased"]
    late = [v for d in numbers["delays"].values() for v in d[levinson]]
    bit, out = numbers["one bit"], numbers["held out"]
    best, at = min(out["biased"]), out["orders"].index(12)
    found = {
        "sm.solve: a residual of at most 1 n u in every system": worst(everything(numbers, "sm.solve")) <= 1,
        "positive definite (biased): Levinson, SciPy's and statsmodels', stays below 0.1 n u at every order": all(
            row[name] < 0.1 for row in biased for name in (levinson, "statsmodels levinson_durbin")
        ),
        "high lag: Levinson is above 1 n u at a third of all delays or more": (
            sum(worst([v]) > 1 for v in late) >= len(late) / 3
        ),
        "one bit: Levinson refuses a matrix of condition below 1e5, sm.solve leaves at most 1 n u": (
            bit[levinson] is None and bit["condition"] < 1e5 and bit["sm.solve"] <= 1
        ),
        "forecasts from biased covariances are the same to six digits by sm.solve, Levinson and LU": all(
            abs(a - b) <= 2e-6 * b
            for other in ("biased, SciPy", "biased, LU")
            for a, b in zip(out[other], out["biased"], strict=True)
        ),
    }
    if numbers["delays"]["CO₂"]["order"] < 300:
        return found
    return found | {
        "high lag: Levinson is above 100 n u at the worst delay of each series, the dense LU below 0.1 n u at all": all(
            worst(d[levinson]) > 100 and worst(d["dense LU"]) < 0.1 for d in numbers["delays"].values()
        ),
        "adjusted: at order 200 Levinson is above 10 n u, Cholesky refuses, and sm.solve is below 0.1": (
            (row := numbers["residuals"]["adjusted"][numbers["orders"].index(200)])[levinson] > 10
            and row["Cholesky"] is None
            and row["sm.solve"] < 0.1
        ),
        "the best order forecasts two years with at most 0.75 of the error of repeating the last year": (
            best <= 0.75 * out["last year again"]
        ),
        "an order beyond one year gains at most 3 % of the error": best >= 0.97 * out["biased"][at],
        "adjusted covariances forecast worse than biased ones at every order from 96 on, by a factor of at least 1.5": all(
            a >= 1.5 * b for n, a, b in zip(out["orders"], out["adjusted"], out["biased"], strict=True) if n >= 96
        ),
    }


def tables(numbers: dict[str, Any]) -> str:
    """Residuals against the order, over the delays, and the held-out errors."""
    solvers = ("sm.solve", "dense LU", "Cholesky", "SciPy solve_toeplitz", "statsmodels levinson_durbin")
    rows = [
        [kind, n, f"{row['condition']:.0e}", *(short(row, name) for name in solvers)]
        for kind in KINDS
        for n, row in zip(numbers["orders"], numbers["residuals"][kind], strict=True)
    ]
    text = "CO₂, residuals in n u:\n\n" + _study.table(["system", "order n", "condition", *solvers], rows)
    rows = []
    for name, d in numbers["delays"].items():
        cells = [
            f"{np.median([worst([x]) for x in v]):.2g}, {worst(v):.2g}"
            for v in (d[s] for s in ("sm.solve", "dense LU", "SciPy solve_toeplitz"))
        ]
        rows.append([name, d["order"], len(d["delays"]), f"{max(d['condition']):.0e}", *cells])
    bit = numbers["one bit"]
    cells = [short(bit, name) for name in ("sm.solve", "dense LU", "SciPy solve_toeplitz")]
    rows.append([f"signs of sunspots, lag {bit['lag']}", bit["order"], 1, f"{bit['condition']:.0e}", *cells])
    head = ["series", "order", "delays", "largest condition", "sm.solve", "dense LU", "SciPy solve_toeplitz"]
    text += "\n\nHigh lags, median and largest residual in n u:\n\n" + _study.table(head, rows)
    out = numbers["held out"]
    rows = [[kind, *(f"{v:.3f}" for v in out[kind])] for kind in ("biased", "adjusted")]
    head = ["covariances", *(f"n = {n}" for n in out["orders"])]
    text += "\n\nTemperature, root mean square error over 24 held-out months, °C; repeating the last year: "
    return text + f"{out['last year again']:.3f}\n\n" + _study.table(head, rows)


def short(row: dict[str, Any], name: str) -> str:
    """A residual, that the solver refused, or that it is not for such systems."""
    if name not in row:
        return ""
    return f"{row[name]:.2g}" if row[name] is not None else row["error"]


def plot(numbers: dict[str, Any]) -> Any:
    """The forecast, its error against the order, residuals against the order and against the delay."""
    figure = _style.figure(11, 8.5)
    (one, two), (three, four) = figure.subplots(2, 2)
    picture(one, numbers["held out"])
    out = numbers["held out"]
    two.plot(out["orders"], out["biased"], color=LOOKS["sm.solve"][0], marker="o", label="biased: positive definite")
    shown = [(n, v) for n, v in zip(out["orders"], out["adjusted"], strict=True)]
    two.plot(*zip(*shown, strict=True), color="#CC79A7", marker="P", label="adjusted: indefinite at high order")
    two.axhline(out["last year again"], color=_style.QUIET, linestyle=":", label="the last year again")
    two.set_xscale("log")
    two.set_yscale("log")
    two.set_ylim(1, 8)
    two.set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    two.set_xticks(marked := [n for n in out["orders"] if n <= 192 or n == 480], [str(n) for n in marked])
    two.minorticks_off()
    two.set_xlabel("order n")
    two.set_ylabel("error over 24 held-out months, °C")
    two.set_title("The error of a forecast against the order")
    two.legend()
    styles = {"biased": "-", "adjusted": "--", "high lag": ":"}
    for kind, line in styles.items():
        for name in ("SciPy solve_toeplitz", "dense LU", "sm.solve"):
            points = [(n, row[name]) for n, row in zip(numbers["orders"], numbers["residuals"][kind], strict=True)]
            colour, marker = LOOKS[name]
            label = name if kind == "biased" else None
            three.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=line, label=label)
    for kind, line in styles.items():
        three.plot([], [], color=_style.INK, linestyle=line, label=kind)
    three.set_xscale("log")
    three.set_yscale("log")
    three.set_xticks(numbers["orders"], [str(n) for n in numbers["orders"]])
    three.minorticks_off()
    three.set_xlabel("order n")
    three.set_ylabel("‖b − T x‖ / (n u ‖T‖ ‖x‖)")
    three.set_title("CO₂: Levinson is safe on positive definite systems only")
    three.set_ylim(1e-4, 3e4)
    three.legend(loc="upper left", ncol=2)
    d = numbers["delays"]["CO₂"]
    for name in ("SciPy solve_toeplitz", "dense LU", "sm.solve"):
        four.plot(d["delays"], d[name], color=LOOKS[name][0], marker=".", markersize=4, linewidth=0.9, label=name)
    for ax in (three, four):
        ax.axhline(1, color=_style.INK, linewidth=0.8)
    four.set_yscale("log")
    four.set_xlabel(f"delay q of T_ij = r_(q+i−j), order {d['order']}")
    four.set_ylabel("‖b − T x‖ / (n u ‖T‖ ‖x‖)")
    four.set_title("CO₂: the same at every delay")
    four.set_ylim(3e-4, 4e3)
    four.legend(loc="upper right", ncol=3)
    return figure


def picture(ax: Any, out: dict[str, Any]) -> None:
    """The last years of the series, and what was forecast of them."""
    s = out["shown"]
    before = np.arange(-len(s["before"]), 0)
    after = np.arange(HORIZON)
    ax.plot(np.append(before, after) / YEAR, [*s["before"], *s["truth"]], color=_style.INK, label="measured")
    ax.plot(after / YEAR, s["last year again"], color=_style.QUIET, linestyle=":", label="last year again")
    ax.plot(after / YEAR, s["forecast"], color=LOOKS["sm.solve"][0], label=f"order {out['best order']}")
    ax.axvspan(0, HORIZON / YEAR, color="#f2f2f2", zorder=0)
    ax.set_xlabel("years from the last value that the forecast has seen")
    ax.set_ylabel("°C")
    ax.set_title("Sea surface temperature, 24 months ahead")
    ax.set_ylim(18.5, 29.5)
    ax.legend(loc="upper left", ncol=3)


if __name__ == "__main__":
    sys.exit(_study.main(only="prediction"))
