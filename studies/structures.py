"""The classes as pictures, and a circulant as the sum of its basis (SURM, figures 2 and 3).

Figure 2 of SURM draws a circulant, a Toeplitz and a Kronecker matrix; figure 3 writes a 5 × 5 circulant as a
combination of orthogonal 0/1 circulants. The same basis gives the nearest circulant of any M: the coefficients are the
means of M over the supports, and error² = ‖M‖² − Σ_k n c_k². Both are schematics in the paper; here every picture is a
matrix of the library, and what it shows is checked by number.
"""

import sys
from typing import Any

import numpy as np

import sepmat as sm
from studies import _study, _style

STATUS = "reproduced"
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"n": 6, "kronecker": (2, 3), "repeats": 2},
    "paper": {"n": 12, "kronecker": (3, 4), "repeats": 20},
}
BASIS = 5  # the size of SURM's figure 3


def gallery(n: int, blocks: tuple[int, int], rng: Any) -> dict[str, sm.StructuredMatrix]:
    """One n × n matrix of each class, with generic entries."""
    draw = rng.standard_normal
    p, q = blocks
    t = draw(n)
    return {
        "circulant": sm.Circulant(draw(n)),
        "skew_circulant": sm.SkewCirculant(draw(n)),
        "toeplitz": sm.Toeplitz(t, np.concatenate((t[:1], draw(n - 1)))),
        "symmetric_toeplitz": sm.Toeplitz(draw(n)),
        "hankel": sm.Hankel(t, np.concatenate((t[-1:], draw(n - 1)))),
        "kronecker": sm.Kronecker(draw((p, p)), draw((q, q))),
        "displacement": sm.LowDisplacementRank(draw((n, 2)), draw((n, 2))),
        "low_rank": sm.LowRank(draw((n, 1)), draw((n, 1))),
    }


def nearest(name: str, M: Any, blocks: tuple[int, int]) -> sm.Fit:
    """The nearest member of the class `name` of the gallery."""
    p, q = blocks
    fits = {
        "circulant": lambda: sm.nearest_circulant(M),
        "skew_circulant": lambda: sm.nearest_skew_circulant(M),
        "toeplitz": lambda: sm.nearest_toeplitz(M),
        "symmetric_toeplitz": lambda: sm.nearest_toeplitz(M, symmetric=True),
        "hankel": lambda: sm.nearest_hankel(M),
        "kronecker": lambda: sm.nearest_kronecker(M, ((p, p), (q, q)), rank=1),
        "displacement": lambda: sm.nearest_displacement(M, 2),
        "low_rank": lambda: sm.nearest_low_rank(M, 1),
    }
    return fits[name]()


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """The pictures with their counts and ranks; the basis; a decomposition; a projection."""
    classes = {}
    for name, A in gallery(p["n"], p["kronecker"], rng).items():
        M = A.to_dense()
        fit = nearest(name, M, p["kronecker"])
        classes[name] = {
            "matrix": M,
            "num_parameters": A.num_parameters,
            "rank": np.linalg.matrix_rank(M),
            "displacement_rank": sm.displacement_rank(M),
            "found_again": _study.round_off(fit.relative_error),
        }
    return {"n": p["n"], "classes": classes, "basis": basis(rng), "identity": identity(p["n"], p["repeats"], rng)}


def basis(rng: Any) -> dict[str, Any]:
    """The five basis circulants of size 5, a circulant in this basis, and the projection of a full matrix on it."""
    unit = np.eye(BASIS)
    P = np.stack([sm.Circulant(unit[k]).to_dense() for k in range(BASIS)])
    gram = np.einsum("aij,bij->ab", P, P)
    c = np.array([1.0, 0.5, -0.75, 0.25, -1.0])
    M = rng.standard_normal((BASIS, BASIS))
    means = np.array([M[P[k] == 1].mean() for k in range(BASIS)])
    A = sm.nearest_circulant(M).matrix.to_dense()
    return {
        "P": P.astype(int),
        "gram_deviation": np.abs(gram - BASIS * np.eye(BASIS)).max(),
        "c": c,
        "circulant": sm.Circulant(c).to_dense(),
        "sum_deviation": _study.round_off(np.abs(np.tensordot(c, P, 1) - sm.Circulant(c).to_dense()).max()),
        "M": M,
        "means": means,
        "nearest": A,
        "nearest_deviation": _study.round_off(np.abs(A - np.tensordot(means, P, 1)).max()),
        "relative_error": np.linalg.norm(M - A) / np.linalg.norm(M),
    }


def identity(n: int, repeats: int, rng: Any) -> dict[str, float]:
    """Worst deviation of error² from ‖M‖² − Σ_k |support_k| coefficient_k², relative to ‖M‖², for each projection."""
    i, j = np.arange(n)[:, None], np.arange(n)
    supports = {
        "circulant": ((i - j) % n, np.ones((n, n)), sm.nearest_circulant),
        "skew_circulant": ((i - j) % n, np.where(i >= j, 1.0, -1.0), sm.nearest_skew_circulant),
        "toeplitz": (i - j + n - 1, np.ones((n, n)), sm.nearest_toeplitz),
        "symmetric_toeplitz": (abs(i - j), np.ones((n, n)), lambda M: sm.nearest_toeplitz(M, symmetric=True)),
        "hankel": (i + j, np.ones((n, n)), sm.nearest_hankel),
    }
    worst = dict.fromkeys(supports, 0.0)
    for _ in range(repeats):
        M = rng.standard_normal((n, n))
        for name, (support, sign, project) in supports.items():
            sums, sizes = np.bincount(support.ravel(), (sign * M).ravel()), np.bincount(support.ravel())
            predicted = 1.0 - (sums**2 / sizes).sum() / np.linalg.norm(M) ** 2
            worst[name] = max(worst[name], abs(project(M).relative_error ** 2 - predicted))
    return {name: _study.round_off(value) for name, value in worst.items()}


def expected_parameters(n: int, blocks: tuple[int, int]) -> dict[str, int]:
    p, q = blocks
    return {
        "circulant": n,
        "skew_circulant": n,
        "toeplitz": 2 * n - 1,
        "symmetric_toeplitz": n,
        "hankel": 2 * n - 1,
        "kronecker": p * p + q * q,
        "displacement": 4 * n,
        "low_rank": 2 * n,
    }


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """Counts and ranks of the classes; the basis is orthogonal; projections are means; the error identity."""
    classes, B, n = numbers["classes"], numbers["basis"], numbers["n"]
    blocks = next(p["kronecker"] for p in PRESETS.values() if p["n"] == n)
    rank = {name: c["displacement_rank"] for name, c in classes.items()}
    return {
        "each class stores the number of parameters of its formula": {
            name: c["num_parameters"] for name, c in classes.items()
        }
        == expected_parameters(n, blocks),
        "displacement rank 1: circulant, skew-circulant; 2: Toeplitz, low displacement rank of 2 terms, rank one": (
            [
                rank[k]
                for k in ("circulant", "skew_circulant", "toeplitz", "symmetric_toeplitz", "displacement", "low_rank")
            ]
            == [1, 1, 2, 2, 2, 2]
        ),
        "a Hankel matrix has full displacement rank: it is Toeplitz times the reversal": rank["hankel"] == n,
        "the nearest member of each closed-form class finds the matrix again, to 1e-14": all(
            c["found_again"] <= 1e-14 for name, c in classes.items() if name != "displacement"
        ),
        "the iterative fit of two displacement terms finds the matrix again, to 1e-6": (
            classes["displacement"]["found_again"] <= 1e-6
        ),
        "the five basis circulants are orthogonal, of squared norm 5": B["gram_deviation"] == 0,
        "a circulant is the sum of its first column times the basis": B["sum_deviation"] <= 1e-14,
        "the nearest circulant has the means over the supports as coefficients": B["nearest_deviation"] <= 1e-14,
        "error² = ‖M‖² − Σ |support| coefficient² for five classes, to 1e-13": all(
            value <= 1e-13 for value in numbers["identity"].values()
        ),
    }


def tables(numbers: dict[str, Any]) -> str:
    """Counts and ranks."""
    rows = [
        [_style.label(name), c["num_parameters"], c["rank"], c["displacement_rank"], f"{c['found_again']:.0e}"]
        for name, c in numbers["classes"].items()
    ]
    n = numbers["n"]
    head = ["class", "parameters", "rank", "displacement rank", "found again with error below"]
    return f"One {n} × {n} matrix of each class:\n\n" + _study.table(head, rows)


def plot(numbers: dict[str, Any]) -> Any:
    """Above: the classes; middle: a circulant in the basis; below: a full matrix and its nearest circulant."""
    figure = _style.figure(13.5, 7.6)
    above, middle, below = figure.subfigures(3, 1, height_ratios=[1.05, 1, 1])
    heading(above, f"One {numbers['n']} × {numbers['n']} matrix of each class (negative blue, positive red)")
    for ax, (name, c) in zip(above.subplots(1, 8), numbers["classes"].items(), strict=True):
        M = np.array(c["matrix"])
        top = 2.5 * np.sqrt((M**2).mean())
        ax.imshow(M, cmap="RdBu_r", vmin=-top, vmax=top)
        bare(ax)
        title = _style.label(name).replace("low displacement rank", "low displ. rank").replace("symmetric", "symm.")
        ax.set_title(title, loc="center", color=_style.STRUCTURES[name][1], weight="bold", fontsize=10.5)
        ax.set_xlabel(
            f"{c['num_parameters']} parameters\nrank {c['rank']}, displ. rank {c['displacement_rank']}", fontsize=9
        )
    B = numbers["basis"]
    heading(middle, "A circulant is its first column times the basis P₀ … P₄, which is orthogonal")
    axes = middle.subplots(1, 7)
    top = max(map(abs, B["c"]))
    entries(axes[0], B["circulant"], "Circulant(c)", top)
    for k, ax in enumerate(axes[1:6]):
        c = B["c"][k]
        sign = "= " if k == 0 else "+ " if c >= 0 else "− "
        entries(ax, c * np.array(B["P"][k]), f"{sign}{abs(c):g} · $P_{k}$", top, np.array(B["P"][k]) == 1)
    axes[6].axis("off")
    heading(below, "The nearest circulant of a full matrix M: the mean of M over the support of each P")
    axes = below.subplots(1, 7)
    top = np.abs(B["M"]).max()
    entries(axes[0], B["M"], "M", top)
    for k, ax in enumerate(axes[1:6]):
        entries(ax, np.array(B["M"]), f"mean on $P_{k}$: {B['means'][k]:.2f}", top, np.array(B["P"][k]) == 1)
    entries(axes[6], B["nearest"], f"nearest: error {B['relative_error']:.2f}", top)
    return figure


def heading(part: Any, text: str) -> None:
    """The title of a row of the figure, at its left."""
    part.suptitle(text, x=0.005, ha="left", fontsize=11.5)


def entries(ax: Any, M: Any, title: str, top: float, shown: Any = None) -> None:
    """A small matrix in colour with its entries, where they are shown; colours saturate at 1.6 top."""
    M = np.asarray(M)
    shown = np.ones(M.shape, dtype=bool) if shown is None else shown
    ax.imshow(np.where(shown, M, np.nan), cmap="RdBu_r", vmin=-1.6 * top, vmax=1.6 * top)
    for i, j in zip(*np.nonzero(shown), strict=True):
        ax.text(j, i, f"{M[i, j]:.2f}", ha="center", va="center", fontsize=8)
    ax.set_title(title, loc="center", fontsize=10)
    bare(ax)


def bare(ax: Any) -> None:
    """No ticks, no grid, a thin frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set(visible=True, color=_style.QUIET, linewidth=0.6)


if __name__ == "__main__":
    sys.exit(_study.main(only="structures"))
