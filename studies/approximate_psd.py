"""Positive semidefinite matrices by low rank, Kronecker, circulant and Toeplitz at equal parameters (SURM, figure 1 left).

SURM reports, for 10 random positive semidefinite matrices and one budget, that low rank is worst in every trial, then
Kronecker, then circulant, and that Toeplitz is best. Size, budget and ensemble are not given. Here M = X Xᵀ with X
Gaussian (Wishart) and Kronecker factors of the shape of SURM's layers, (n/r × r) ⊗ (r × n/r), where the order holds;
then square Kronecker factors and nine other ensembles, where mostly it does not.
"""

import itertools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import sepmat as sm
from studies import _study, _style

STATUS = "order reproduced under stated assumptions"

# Sizes n, each with Kronecker shapes ((m1, n1), (m2, n2)); the first is SURM's shape, the second has square factors.
SHAPES = {
    50: [((10, 5), (5, 10)), ((5, 5), (10, 10)), ((25, 2), (2, 25)), ((10, 10), (5, 5)), ((2, 2), (25, 25))],
    64: [((16, 4), (4, 16)), ((8, 8), (8, 8)), ((32, 2), (2, 32)), ((4, 4), (16, 16))],
    100: [((20, 5), (5, 20)), ((5, 5), (20, 20)), ((25, 4), (4, 25)), ((50, 2), (2, 50))],
}
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"sizes": [50], "trials": 2, "fresh": 3, "ensemble_size": 64, "shape": ((8, 8), (8, 8))},
    "paper": {"sizes": [50, 64, 100], "trials": 10, "fresh": 90, "ensemble_size": 64, "shape": ((8, 8), (8, 8))},
}
ORDER = ("low_rank", "kronecker", "circulant", "toeplitz")  # worst to best, as published

# Means of 10 trials computed for this project before sepmat existed, by plain NumPy, to three digits.
EXPECTED = {
    "50": {"low rank 1": 0.926, "low rank 2": 0.862, "circulant": 0.704, "Toeplitz": 0.698}
    | {"10×5 ⊗ 5×10": 0.846, "25×2 ⊗ 2×25": 0.950, "5×5 ⊗ 10×10": 0.692, "10×10 ⊗ 5×5": 0.690, "2×2 ⊗ 25×25": 0.615},
    "64": {"low rank 1": 0.943, "low rank 2": 0.892, "circulant": 0.703, "Toeplitz": 0.698}
    | {"16×4 ⊗ 4×16": 0.916, "32×2 ⊗ 2×32": 0.953, "8×8 ⊗ 8×8": 0.696, "4×4 ⊗ 16×16": 0.684},
    "100": {"low rank 1": 0.963, "low rank 2": 0.929, "circulant": 0.705, "Toeplitz": 0.702}
    | {"20×5 ⊗ 5×20": 0.922, "25×4 ⊗ 4×25": 0.975, "50×2 ⊗ 2×50": 0.970, "5×5 ⊗ 20×20": 0.693},
}


def wishart(columns: Callable[[int], int]) -> Callable[..., Any]:
    """X Xᵀ, X Gaussian with columns(n) columns."""
    return lambda n, rng: (X := rng.standard_normal((n, columns(n)))) @ X.T


def uniform(n: int, rng: Any) -> Any:
    """X Xᵀ, X uniform on (0, 1): almost the rank-1 matrix of its mean."""
    X = rng.uniform(size=(n, n))
    return X @ X.T


def kernel(width: float) -> Callable[..., Any]:
    """exp(-D/width), D the squared distances of n points with 8 Gaussian features."""

    def draw(n: int, rng: Any) -> Any:
        X = rng.standard_normal((n, 8))
        return np.exp(-((X[:, None, :] - X[None, :, :]) ** 2).sum(-1) / width)

    return draw


def line(n: int, rng: Any) -> Any:
    """exp(-(x_i - x_j)²/0.02), x sorted uniform on (0, 1): nearly Toeplitz."""
    x = np.sort(rng.uniform(size=n))
    return np.exp(-((x[:, None] - x[None, :]) ** 2) / 0.02)


def spectrum(values: Callable[..., Any]) -> Callable[..., Any]:
    """Q diag(values) Qᵀ with Q from the QR factorization of a Gaussian matrix."""

    def draw(n: int, rng: Any) -> Any:
        Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
        return (Q * values(n, rng)) @ Q.T

    return draw


ENSEMBLES: dict[str, Callable[..., Any]] = {
    "XXᵀ, Gaussian n × n": wishart(lambda n: n),
    "XXᵀ, Gaussian n × 2n": wishart(lambda n: 2 * n),
    "XXᵀ, Gaussian n × n/2": wishart(lambda n: n // 2),
    "XXᵀ, Gaussian n × 4": wishart(lambda n: 4),
    "XXᵀ, uniform n × n": uniform,
    "exp(−D/2), 8 features": kernel(2.0),
    "exp(−D/8), 8 features": kernel(8.0),
    "exp(−(xᵢ−xⱼ)²/0.02), sorted": line,
    "Q diag(exp(−k/10)) Qᵀ": spectrum(lambda n, rng: np.exp(-np.arange(n) / 10)),
    "Q diag(uniform) Qᵀ": spectrum(lambda n, rng: rng.uniform(size=n)),
}


def name_of(shapes: Any) -> str:
    """((10, 5), (5, 10)) as 10×5 ⊗ 5×10."""
    return " ⊗ ".join(f"{m}×{n}" for m, n in shapes)


def kronecker_error(M: Any, shapes: Any) -> float:
    """Relative error of the nearest Kronecker product, by the full SVD: the optimum."""
    return sm.nearest_kronecker(M, shapes, rank=1, exact=True).relative_error


def projections(M: Any) -> dict[str, float]:
    """Relative errors of the classes that need no shape."""
    return {
        "low_rank": sm.nearest_low_rank(M, 1).relative_error,
        "circulant": sm.nearest_circulant(M).relative_error,
        "toeplitz": sm.nearest_toeplitz(M).relative_error,
    }


def in_order(errors: dict[str, float]) -> bool:
    """Is this trial in the published order?"""
    found = [errors[name] for name in ORDER]
    return all(worse > better for worse, better in itertools.pairwise(found))


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Errors of every trial on the Wishart ensemble, counts on fresh trials, means on the other ensembles."""
    sizes = {str(n): wishart_trials(n, p["trials"]) for n in p["sizes"]}
    fresh = {"trials": p["fresh"], "surm": 0, "square": 0}
    for _ in _study.progress(range(p["fresh"]), "fresh trials"):
        M = ENSEMBLES["XXᵀ, Gaussian n × n"](50, rng)
        for key, shapes in zip(("surm", "square"), SHAPES[50], strict=False):
            fresh[key] += in_order(projections(M) | {"kronecker": kronecker_error(M, shapes)})
    others = {}
    for name, draw in _study.progress(ENSEMBLES.items(), "ensembles"):
        others[name] = ensemble(draw, p["ensemble_size"], p["shape"], p["trials"])
    return {
        "trials": p["trials"],
        "sizes": sizes,
        "fresh": fresh,
        "ensembles": {"n": p["ensemble_size"], "shape": name_of(p["shape"]), "results": others},
    }


def wishart_trials(n: int, trials: int) -> dict[str, Any]:
    """Parameters and errors per trial; trial t draws from default_rng(t)."""
    parameters: dict[str, int] = {}
    errors: dict[str, list[float]] = {}
    for t in _study.progress(range(trials), f"n = {n}"):
        X = np.random.default_rng(t).standard_normal((n, n))
        M = X @ X.T
        fits = {
            "low rank 1": sm.nearest_low_rank(M, 1),
            "low rank 2": sm.nearest_low_rank(M, 2),
            "circulant": sm.nearest_circulant(M),
            "Toeplitz": sm.nearest_toeplitz(M),
        } | {name_of(s): sm.nearest_kronecker(M, s, rank=1, exact=True) for s in SHAPES[n]}
        for name, fit in fits.items():
            parameters[name] = fit.num_parameters
            errors.setdefault(name, []).append(fit.relative_error)
    return {
        "parameters": parameters,
        "errors": errors,
        "surm_shape": name_of(SHAPES[n][0]),
        "square_shape": name_of(SHAPES[n][1]),
    }


def ensemble(draw: Callable[..., Any], n: int, shape: Any, trials: int) -> dict[str, Any]:
    """Mean errors over the trials, and how many are in the published order."""
    rows = []
    for t in range(trials):
        M = draw(n, np.random.default_rng(t))
        identity = (np.trace(M) / n) * np.eye(n)
        rows.append(
            projections(M)
            | {"kronecker": kronecker_error(M, shape), "identity": np.linalg.norm(M - identity) / np.linalg.norm(M)}
        )
    mean = {name: np.mean([row[name] for row in rows]) for name in rows[0]}
    return {"mean": mean, "in_order": sum(map(in_order, rows)), "best": min(ORDER, key=lambda name: mean[name])}


def count_in_order(size: dict[str, Any], shape: str) -> int:
    """Trials in which low rank > Kronecker (of this shape) > circulant > Toeplitz."""
    rows = zip(*(size["errors"][name] for name in ("low rank 1", shape, "circulant", "Toeplitz")), strict=True)
    return sum(all(a > b for a, b in itertools.pairwise(row)) for row in rows)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """The published order where it holds, and where it does not."""
    trials, fresh, results = numbers["trials"], numbers["fresh"], numbers["ensembles"]["results"]
    out = {}
    for n, size in numbers["sizes"].items():
        out[f"Wishart n = {n}, Kronecker of SURM's shape {size['surm_shape']}: the published order in every trial"] = (
            count_in_order(size, size["surm_shape"]) == trials
        )
        out[
            f"Wishart n = {n}, Kronecker with square factors {size['square_shape']}: the published order in no trial"
        ] = count_in_order(size, size["square_shape"]) == 0
        if trials == 10:
            out[f"Wishart n = {n}: all means equal the reference values to their three digits"] = all(
                abs(mean(size["errors"][name]) - value) <= 0.0005 + 1e-6 for name, value in EXPECTED[n].items()
            )
    out["the same on fresh draws: every trial with SURM's shape, none with square factors"] = (
        fresh["surm"] == fresh["trials"] and fresh["square"] == 0
    )
    means = [results[name]["mean"] for name in ("XXᵀ, Gaussian n × n", "exp(−D/2), 8 features")]
    out["the reason: on Wishart and exp(−D/2) the best multiple of I alone comes within 10 % of the best circulant"] = (
        all(m["identity"] <= 1.1 * m["circulant"] for m in means)
    )
    out["low rank is best, not worst, where M is nearly of low rank (Gaussian n × 4, uniform)"] = all(
        results[name]["best"] == "low_rank" for name in ("XXᵀ, Gaussian n × 4", "XXᵀ, uniform n × n")
    )
    if trials == 10:
        held = {name for name, r in results.items() if r["in_order"] == trials}
        never = {name for name, r in results.items() if r["in_order"] == 0}
        out[
            "square factors, n = 64: the published order in every trial of exp(−D/2) only, in none of eight ensembles"
        ] = held == {"exp(−D/2), 8 features"} and len(never) == 8
    return out


def tables(numbers: dict[str, Any]) -> str:
    """Means per size and ensemble."""
    parts = []
    for n, size in numbers["sizes"].items():
        rows = []
        for name, values in size["errors"].items():
            kron = "⊗" in name
            order = f"{count_in_order(size, name)} of {numbers['trials']}" if kron else ""
            rows.append([name, size["parameters"][name], f"{mean(values):.3f}", order])
        parts.append(
            f"Wishart, n = {n}:\n\n" + _study.table(["class", "parameters", "mean error", "published order"], rows)
        )
    head = ["ensemble", *map(_style.label, ORDER), "best c·I", "published order"]
    rows = [
        [name, *(f"{r['mean'][k]:.3f}" for k in (*ORDER, "identity")), f"{r['in_order']} of {numbers['trials']}"]
        for name, r in numbers["ensembles"]["results"].items()
    ]
    parts.append(
        f"Other ensembles, n = {numbers['ensembles']['n']}, Kronecker {numbers['ensembles']['shape']}, "
        "low rank of rank 1:\n\n" + _study.table(head, rows)
    )
    return "\n\n".join(parts)


def plot(numbers: dict[str, Any]) -> Any:
    """Left: the trials with two Kronecker shapes; right: the means on all ensembles."""
    figure = _style.figure(12, 5.4)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.5])
    n, size = next(iter(numbers["sizes"].items()))
    trials = range(1, numbers["trials"] + 1)
    keys = {"low_rank": "low rank 1", "circulant": "circulant", "toeplitz": "Toeplitz"}
    for ax, shape, verdict in (
        (left, size["surm_shape"], "the published order"),
        (middle, size["square_shape"], "not the published order"),
    ):
        for name in ORDER:
            ax.plot(trials, size["errors"][keys.get(name, shape)], **_style.look(name))
        held = count_in_order(size, shape)
        ax.set_title(f"Kronecker {shape}:\n{verdict} ({held} of {numbers['trials']})")
        ax.set_xlabel(f"trial (M = XXᵀ, X Gaussian {n} × {n})")
        ax.set_ylim(0.6, 1.0)
        ax.set_xticks([1, *range(2, numbers["trials"] + 1, 2)])
        ax.grid(axis="x", visible=False)
    left.set_ylabel("relative error ‖A − M‖ / ‖M‖")
    middle.sharey(left)
    results = numbers["ensembles"]["results"]
    for y, r in enumerate(results.values()):
        right.axhspan(y - 0.5, y + 0.5, color="#f4f4f4" if y % 2 == 0 else "white", zorder=0, linewidth=0)
        for k, name in enumerate(ORDER):  # one above the other, so that none hides another
            right.plot(
                r["mean"][name], y + 0.2 * (k - 1.5), **_style.look(name, linestyle="", label=None, markersize=5)
            )
        right.plot(
            r["mean"]["identity"], y, "|", color=_style.QUIET, markersize=17, label="best c·I" if y == 0 else None
        )
        right.text(1.03, y, f"{r['in_order']}/{numbers['trials']}", va="center", color=_style.INK, fontsize=9.5)
    right.set_yticks(range(len(results)), list(results))
    right.set_ylim(len(results) - 0.5, -0.5)
    right.set_xlim(0, 1.02)
    right.text(1.03, -0.75, "in order", va="bottom", fontsize=9.5, color=_style.INK)
    right.grid(axis="y", visible=False)
    right.set_title(f"Other ensembles, n = {numbers['ensembles']['n']}, {numbers['ensembles']['shape']}")
    right.set_xlabel("mean relative error")
    right.tick_params(axis="y", length=0)
    handles, labels = left.get_legend_handles_labels()
    more = right.get_legend_handles_labels()
    figure.legend(handles + more[0], labels + more[1], loc="outside lower center", ncols=5)
    return figure


if __name__ == "__main__":
    sys.exit(_study.main(only="approximate_psd"))
