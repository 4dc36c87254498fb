"""Does low matrix rank mean low separation rank? What are the separation ranks of matrices one knows?

The appendix of LSR-Adapt argues that a matrix of rank r is a sum of r Kronecker products. Here: the separation rank of
random matrices of rank r, for every small shape; exact and approximate separation ranks of 64 × 64 matrices; the error of
the paper's own factor shapes on a random factor; and the weights of a pretrained sentence transformer as sums of two-
and three-factor Kronecker products, next to low rank with the same number of parameters.
"""

import itertools
import sys
from typing import Any

import numpy as np
import scipy.linalg

import sepmat as sm
from sepmat.tree import tree
from studies import _study, _style
from studies.real_matrices import KINDS, by_share_caught, median, weights

STATUS = "reproduced"
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "sizes": [1, 2, 3, 5],
        "rank": 3,
        "layers": [0],
        "kinds": ["query"],
        "corner": 48,
        "ranks": [1, 2, 4],
        "fitted": 2,
    },
    "paper": {
        "sizes": [1, 2, 3, 4, 5, 7],
        "rank": 4,
        "layers": [0, 1, 2, 3, 4, 5],
        "kinds": list(KINDS),
        "corner": None,
        "ranks": [1, 2, 4, 8, 16, 32, 64],
        "fitted": 8,
    },
}
TOLERANCES = (1e-2, 1e-3, 1e-6, 1e-9, 1e-12)
EXPECTED: dict[str, tuple[int, list[int] | None]] = {  # the exact rank, and that at each tolerance where it is known
    "identity": (1, [1] * 5),
    "Hadamard": (1, [1] * 5),
    "2-D Laplacian": (2, [2] * 5),
    "lower triangular ones": (2, [2] * 5),
    "all ones + I": (2, [2] * 5),
    "1-D Laplacian": (3, [3] * 5),
    "inverse 1-D Laplacian": (5, [4, 5, 5, 5, 5]),
    "random circulant": (8, [8] * 5),
    "DFT, digits reversed": (8, [4, 4, 7, 8, 8]),
    "Hilbert 1/(i+j+1)": (15, [3, 4, 6, 7, 9]),
    "exp(−(i−j)²/50)": (15, [4, 5, 7, 9, 9]),
    "random Toeplitz": (15, None),
    "random upper triangular": (36, None),
    "perfect shuffle": (64, [64] * 5),
    "DFT": (64, [64] * 5),
    "random orthogonal": (64, None),
    "random Gaussian": (64, None),
    "random u vᵀ": (64, None),
}
BEYOND_DOUBLE = ("Hilbert 1/(i+j+1)", "exp(−(i−j)²/50)")  # their last singular values are below round-off
FLOOR = 1e-14  # errors below are round-off, and kept as this
PRIME = 2**31 - 1
FAMILIES = ((8, 8), (16, 4), (32, 2), (64, 1))  # of the shapes (a×b) ⊗ (b×a) of 64 × 64
SPLITS = {48: ((8, 6), (4, 4, 3)), 384: ((24, 16), (8, 8, 6)), 1536: ((48, 32), (16, 12, 8))}
CLASSES = {"low_rank": "low rank", "two": "d = 2", "tree": "d = 3, tree", "three": "d = 3, fitted (first layer)"}
NOISE = "Gaussian noise"


# --- from low matrix rank to separation rank ----------------------------------------------------------------------------


def simple_bound(r: int, m1: int, n1: int, m2: int, n2: int) -> int:
    """What the sizes of U_j ⊗ V_j and of the rows and columns they span allow."""
    return min(r * min(m1, m2) * min(n1, n2), min(m1, r * m2) * min(n1, r * n2), min(m2, r * m1) * min(n2, r * n1))


def generic_ranks(sizes: list[int], rank: int, rng: Any) -> dict[str, Any]:
    """Random U Vᵀ of every shape (m1×n1) ⊗ (m2×n2), m1 <= m2, and every rank up to a limit."""
    cases = as_foretold = at_bound = 0
    below = []
    for m1, n1, m2, n2 in itertools.product(sizes, repeat=4):
        if m1 > m2:
            continue  # the other order of the two factors
        for r in range(1, min(m1 * m2, n1 * n2, rank) + 1):
            U, V = rng.standard_normal((m1 * m2, r)), rng.standard_normal((n1 * n2, r))
            found, bound = sm.separation_rank((U, V), ((m1, n1), (m2, n2))), simple_bound(r, m1, n1, m2, n2)
            cases += 1
            as_foretold += found == sm.generic_separation_rank(r, ((m1, n1), (m2, n2)))
            at_bound += found == bound
            if found != bound:
                below.append({"shapes": f"{m1}×{n1} ⊗ {m2}×{n2}", "rank": r, "found": found, "bound": bound})
    return {"cases": cases, "as_foretold": as_foretold, "at_bound": at_bound, "below": below}


def growth(rng: Any) -> dict[str, Any]:
    """Separation rank against matrix rank of random 64 × 64 matrices, for shapes from balanced to low rank itself."""
    U, V = rng.standard_normal((64, 16)), rng.standard_normal((64, 16))
    out = {}
    for a, b in FAMILIES:
        shapes = ((a, b), (b, a))
        ranks = range(1, 17)
        out[f"{a}×{b} ⊗ {b}×{a}"] = {
            "found": [sm.separation_rank((U[:, :r], V[:, :r]), shapes) for r in ranks],
            "foretold": [sm.generic_separation_rank(r, shapes) for r in ranks],
        }
    return out


def examples(rng: Any) -> dict[str, Any]:
    """The smallest counter-example, the largest one, columns that are Kronecker products, and three factors."""
    u, one = np.array([[1.0], [0.0], [0.0], [1.0]]), np.ones((1, 1))
    large = tuple(rng.standard_normal((768, 1)) for _ in range(2))
    three = tuple(rng.standard_normal((24, 1)) for _ in range(2))
    shapes = ((3, 2), (4, 3), (2, 4))
    T = sm.rearrange(three[0] @ three[1].T, shapes)
    products = [
        scipy.linalg.khatri_rao(
            scipy.linalg.khatri_rao(*(rng.standard_normal((n, 3)) for _ in range(2))), one * [1, 1, 1]
        )
        for n in (8, 8)
    ]
    S = sm.separated_from_low_rank(*products, ((8, 8), (8, 8)))
    return {
        "u": sm.separation_rank((u, one), ((2, 1), (2, 1))),
        "u uᵀ": sm.separation_rank((u, u), ((2, 2), (2, 2))),
        "768 × 768": sm.separation_rank(large, ((32, 32), (24, 24))),
        "unfoldings": [np.linalg.matrix_rank(np.moveaxis(T, k, 0).reshape(T.shape[k], -1)) for k in range(3)],
        "bounds": sm.separation_rank_bounds(three, shapes),
        "Kronecker columns": S.terms,
    }


# --- matrices one knows -------------------------------------------------------------------------------------------------


def laplacian(n: int) -> Any:
    return 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)


def matrices(rng: Any) -> dict[str, Any]:
    """64 × 64 matrices by name."""
    n, reverse = 64, np.arange(64).reshape(8, 8).T.ravel()
    i, j = np.indices((n, n))
    dft = np.exp(-2j * np.pi * (i * j % n) / n)
    return {
        "identity": np.eye(n),
        "Hadamard": scipy.linalg.hadamard(n),
        "2-D Laplacian": np.kron(laplacian(8), np.eye(8)) + np.kron(np.eye(8), laplacian(8)),
        "lower triangular ones": np.tril(np.ones((n, n))),
        "all ones + I": 1 + np.eye(n),
        "1-D Laplacian": laplacian(n),
        "inverse 1-D Laplacian": np.linalg.inv(laplacian(n)),
        "random circulant": scipy.linalg.circulant(rng.standard_normal(n)),
        "DFT, digits reversed": dft[:, reverse],
        "Hilbert 1/(i+j+1)": 1 / (i + j + 1),
        "exp(−(i−j)²/50)": np.exp(-((i - j) ** 2) / 50),
        "random Toeplitz": scipy.linalg.toeplitz(rng.standard_normal(n), rng.standard_normal(n)),
        "random upper triangular": np.triu(rng.standard_normal((n, n))),
        "perfect shuffle": np.eye(n)[reverse],
        "DFT": dft,
        "random orthogonal": np.linalg.qr(rng.standard_normal((n, n)))[0],
        "random Gaussian": rng.standard_normal((n, n)),
        "random u vᵀ": np.outer(rng.standard_normal(n), rng.standard_normal(n)),
    }


def exact_ranks() -> dict[str, int]:
    """Two ranks that double precision cannot see, in integers modulo a prime: a lower bound of the true one.

    Entries 1/(i+j+1) are rational; those of the Gaussian are powers of exp(−1/50), which is transcendental, so a number
    drawn at random may stand for it. With 15 distinct 8 × 8 blocks no rank is above 15.
    """
    i, j = np.indices((64, 64))
    inverses = [0] + [pow(k, -1, PRIME) for k in range(1, 128)]
    powers = [pow(123456789, k * k, PRIME) for k in range(64)]
    found = (np.array(inverses, dtype=object)[i + j + 1], np.array(powers, dtype=object)[abs(i - j)])
    shape = (8, 8, 8, 8)
    return {
        name: modular_rank(M.reshape(shape).transpose(0, 2, 1, 3).reshape(64, 64))
        for name, M in zip(BEYOND_DOUBLE, found, strict=True)
    }


def modular_rank(M: Any) -> int:
    """Gaussian elimination in the integers modulo PRIME."""
    M, rank = M.copy(), 0
    for column in range(M.shape[1]):
        pivot = next((k for k in range(rank, len(M)) if M[k, column]), None)
        if pivot is None:
            continue
        M[[rank, pivot]] = M[[pivot, rank]]
        M[rank] = M[rank] * pow(int(M[rank, column]), -1, PRIME) % PRIME
        M[rank + 1 :] = (M[rank + 1 :] - np.outer(M[rank + 1 :, column], M[rank])) % PRIME
        rank += 1
    return rank


def known(rng: Any) -> dict[str, Any]:
    """Exact ranks, those at each tolerance, and the error of the best s terms for every s."""
    shapes, exact, out = ((8, 8), (8, 8)), exact_ranks(), {}
    for name, M in matrices(rng).items():
        values = np.linalg.svd(sm.rearrange(M, shapes), compute_uv=False)
        tails = np.sqrt(np.cumsum((values / np.linalg.norm(values))[::-1] ** 2))[::-1]
        out[name] = {
            "in_double": sm.separation_rank(M, shapes),
            "exact": exact.get(name, sm.separation_rank(M, shapes)),
            "at_tolerance": [sm.separation_rank(M, shapes, tol=tol) for tol in TOLERANCES],
            "errors": np.maximum(tails[1:], FLOOR),  # of 1, 2, … 63 terms
        }
    return out


# --- the factors of LSR-Adapt -------------------------------------------------------------------------------------------


def adapter(rng: Any) -> dict[str, Any]:
    """A random 768 × 4 factor as Σ_s (32×2) ⊗ (24×2): error for every s; and what ΔW = A B is for s = 16."""
    shapes = ((32, 2), (24, 2))
    A = rng.standard_normal((768, 4))
    values = np.linalg.svd(sm.rearrange(A, shapes), compute_uv=False)
    fits = {s: sm.nearest_kronecker(A, shapes, rank=s, exact=True) for s in (16, 48)}
    left = sm.Separated([rng.standard_normal((16, *p)) for p in shapes])
    right = sm.Separated([rng.standard_normal((16, *p[::-1])) for p in shapes])
    update = left @ right
    return {
        "errors": np.sqrt(1 - np.minimum(1, np.cumsum(values**2) / (values**2).sum()))[:-1],
        "fitted": {s: fit.relative_error if fit.relative_error > FLOOR else 0.0 for s, fit in fits.items()},
        "separation_rank": sm.separation_rank(A, shapes),
        "parameters": {
            "per term": left.num_parameters // left.terms,
            "LSR, inner rank 4, s = 16": left.num_parameters + right.num_parameters,
            "LSR, inner rank 16, s = 8": 2 * 8 * (32 * 4 + 24 * 4),
            "LoRA, rank 8": sm.LowRank(np.zeros((768, 8)), np.zeros((768, 8))).num_parameters,
            "LoRA, rank 4": sm.LowRank(np.zeros((768, 4)), np.zeros((768, 4))).num_parameters,
            "dense 768 × 4": A.size,
        },
        "update": {
            "terms": update.terms,
            "separation_rank": sm.separation_rank(update),
            "matrix_rank": np.linalg.matrix_rank(update.to_dense()),
        },
    }


# --- trained weights ----------------------------------------------------------------------------------------------------


def splits(M: Any, d: int) -> tuple[tuple[int, int], ...]:
    """d factor shapes, as equal as the sizes allow."""
    return tuple(zip(*(SPLITS[size][d - 2] for size in M.shape), strict=True))


def size_of(M: Any, d: int) -> int:
    """Parameters of one term: the entries of its factors and a scale."""
    return 1 + sum(a * b for a, b in splits(M, d))


def curves(M: Any, ranks: list[int], fitted: int) -> dict[str, Any]:
    """Relative errors at the parameters of rank 1, 2, 4, …: the best ones for low rank and d = 2, two for d = 3."""
    m, n = M.shape
    values = {
        "low_rank": np.linalg.svd(M, compute_uv=False),
        "two": np.linalg.svd(sm.rearrange(M, splits(M, 2)), compute_uv=False),
        "tree": tree(sm.rearrange(M, splits(M, 3)))[0],
    }
    sizes = {"low_rank": m + n, "two": size_of(M, 2), "tree": size_of(M, 3), "three": size_of(M, 3)}
    terms = {name: [r * (m + n) // size for r in ranks] for name, size in sizes.items()}
    errors: dict[str, list[float | None]] = {}
    for name, found in values.items():
        tails = np.sqrt(np.cumsum(np.append(found, 0.0)[::-1] ** 2))[::-1] / np.linalg.norm(M)
        errors[name] = [float(tails[min(k, len(found))]) if k else None for k in terms[name]]
    errors["three"] = [three(M, k) if r <= fitted else None for r, k in zip(ranks, terms["three"], strict=True)]
    return {"errors": errors, "terms": terms}


def three(M: Any, terms: int, sweeps: int = 40) -> float:
    """The error of so many terms of three factors: alternating least squares from the tree."""
    T = sm.rearrange(M / np.linalg.norm(M), splits(M, 3))
    _, factors = tree(T, rank=terms)
    unfoldings = [np.moveaxis(T, k, -1).reshape(-1, T.shape[k]) for k in range(3)]
    for k in [*range(3)] * sweeps:
        A, B = (factors[j] for j in range(3) if j != k)
        products = scipy.linalg.khatri_rao(A, B)
        solved = np.linalg.lstsq(products, unfoldings[k], rcond=None)[0].T
        factors[k] = solved / np.linalg.norm(solved, axis=0)
    return float(np.linalg.norm(unfoldings[k] - products @ solved.T))


def trained(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """The curves of every weight, by kind; and of a Gaussian matrix. d = 3 is fitted for the first layer only."""
    named = weights(p["kinds"], p["layers"], p["corner"])
    named.append((NOISE, p["layers"][0], rng.standard_normal(named[0][2].shape)))
    out: dict[str, Any] = {}
    for kind, layer, M in _study.progress(named, "weights"):
        found = curves(M, p["ranks"], p["fitted"] if layer == p["layers"][0] else 0)
        shares = [r * sum(M.shape) / M.size for r in p["ranks"]]
        group = out.setdefault(kind, {"shape": M.shape, "shares": shares, "terms": found["terms"], "errors": {}})
        for name, row in found["errors"].items():
            group["errors"].setdefault(name, []).append(row)
    return out


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    return {
        "generic": generic_ranks(p["sizes"], p["rank"], rng),
        "growth": growth(rng),
        "examples": examples(rng),
        "known": known(rng),
        "adapter": adapter(rng),
        "ranks": p["ranks"],
        "weights": trained(p, rng),
    }


# --- what is said about it ----------------------------------------------------------------------------------------------


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """Where the argument of the appendix fails and what is true instead; the tables; the counts; the weights."""
    generic, examples, known, adapter = (numbers[k] for k in ("generic", "examples", "known", "adapter"))
    cases, below = generic["cases"], generic["below"]
    fixed = [name for name, (_, at) in EXPECTED.items() if at is not None]
    count, errors = adapter["parameters"], adapter["errors"]
    trained = {kind: group for kind, group in numbers["weights"].items() if kind != NOISE}
    noise = numbers["weights"][NOISE]["errors"]
    two, three = (comparisons(trained.values(), name) for name in ("two", "three"))
    like_noise = 0.02 if numbers["weights"][NOISE]["shape"][0] >= 384 else 0.1
    return {
        f"random matrices of given rank: separation rank as generic_separation_rank foretells it, {cases} of {cases}": (
            generic["as_foretold"] == cases
        ),
        f"the simple bound min{{…}} holds for all and is attained by all but {len(below)}, all of rank 2; the smallest is "
        "3×5 ⊗ 5×3, with 14 and not 15": (
            generic["at_bound"] == cases - len(below)
            and all(case["found"] < case["bound"] and case["rank"] == 2 for case in below)
            and {"shapes": "3×5 ⊗ 5×3", "rank": 2, "found": 14, "bound": 15} in below
        ),
        "a random 768 × 768 matrix of rank 1 has separation rank 576 in 32×32 ⊗ 24×24, the largest there is": (
            examples["768 × 768"] == 576
        ),
        "the smallest counter-example: u = (1, 0, 0, 1) has separation rank 2, and u uᵀ has 4, the largest there is": (
            examples["u"] == 2 and examples["u uᵀ"] == 4
        ),
        "what is true: three columns that are Kronecker products give three terms": examples["Kronecker columns"] == 3,
        "three factors, a random 24 × 24 matrix of rank 1: unfoldings of rank 6, 12, 8, so at least 12 terms; 36 suffice": (
            examples["unfoldings"] == [6, 12, 8] and examples["bounds"] == [12, 36]
        ),
        f"{len(EXPECTED)} known matrices: the exact separation ranks are the expected ones": all(
            known[name]["exact"] == exact for name, (exact, _) in EXPECTED.items()
        ),
        "of rank 15 for the Hilbert matrix and the Gaussian, double precision sees 10 and 11": (
            [known[name]["in_double"] for name in BEYOND_DOUBLE] == [10, 11]
        ),
        f"{len(fixed)} of them: also the ranks at errors of 1e-2, 1e-3, 1e-6, 1e-9 and 1e-12 are the expected ones": all(
            known[name]["at_tolerance"] == EXPECTED[name][1] for name in fixed
        ),
        "LSR-Adapt: 3,584 parameters in both settings, LoRA of rank 8 has 12,288; LoRA of the rank that LSR has, 6,144": (
            count["LSR, inner rank 4, s = 16"] == count["LSR, inner rank 16, s = 8"] == 3584
            and (count["LoRA, rank 8"], count["LoRA, rank 4"]) == (12288, 6144)
        ),
        "the best 16 terms 32×2 ⊗ 24×2 leave 0.54 to 0.58 of a random 768 × 4 factor; 48 are exact": (
            0.54 <= adapter["fitted"]["16"] <= 0.58
            and abs(adapter["fitted"]["16"] - errors[15]) <= 1e-5
            and adapter["fitted"]["48"] == 0.0
            and adapter["separation_rank"] == 48
        ),
        "28 terms and more have more parameters than the dense factor, and 27 still leave 0.30 to 0.36": (
            27 * count["per term"] <= count["dense 768 × 4"] < 28 * count["per term"] and 0.30 <= errors[26] <= 0.36
        ),
        "an update ΔW of s = 16 terms a factor has matrix rank 4 and separation rank s² = 256": (
            adapter["update"] == {"terms": 256, "separation_rank": 256, "matrix_rank": 4}
        ),
        f"weights: low rank beats two factors of like sizes in {two[0]} of {two[1]} comparisons at equal parameters": (
            two[0] >= 0.98 * two[1]
        ),
        f"weights: it beats fitted sums of three factors in {three[0]} of {three[1]}": three[0] >= 0.9 * three[1],
        "weights: three factors, fitted, beat two at every budget, on the median of every kind": all(
            ahead(group["errors"], "three", "two", i)
            for group in trained.values()
            for i in range(len(numbers["ranks"]))
        ),
        "Gaussian noise of the same shape: three factors, fitted, beat low rank from rank 2 on": all(
            other < row
            for row, other in list(zip(noise["low_rank"][0], noise["three"][0], strict=True))[1:]
            if other is not None
        ),
        f"attention weights: two factors catch what they catch from noise, medians within {like_noise:.0%}": (
            deviation(trained, numbers["weights"][NOISE]) <= like_noise
        ),
    }


def comparisons(groups: Any, name: str) -> tuple[int, int]:
    """(how often low rank has the smaller error, of how many)."""
    pairs = [
        (a, b)
        for group in groups
        for row, others in zip(group["errors"]["low_rank"], group["errors"][name], strict=True)
        for a, b in zip(row, others, strict=True)
        if b is not None
    ]
    return sum(a < b for a, b in pairs), len(pairs)


def ahead(errors: dict[str, Any], name: str, other: str, i: int) -> bool:
    """Whether the median of one class is below that of another at a budget, over the matrices where both were fitted."""
    both = [(row[i], rest[i]) for row, rest in zip(errors[name], errors[other], strict=True)]
    both = [pair for pair in both if None not in pair]
    return not both or median([a for a, _ in both]) < median([b for _, b in both])


def deviation(groups: dict[str, Any], noise: dict[str, Any]) -> float:
    """How far the errors of two factors are from those on noise of the same shape, at worst, relatively."""
    same = [group["errors"]["two"] for group in groups.values() if group["shape"] == noise["shape"]]
    found = [(middle(rows, i), noise["errors"]["two"][0][i]) for rows in same for i in range(len(rows[0]))]
    return max(abs(a / b - 1) for a, b in found if a is not None)


def middle(rows: list[list[float | None]], i: int) -> float | None:
    """The median of column i, None where nothing was fitted."""
    found = [row[i] for row in rows if row[i] is not None]
    return median(found) if found else None


def tables(numbers: dict[str, Any]) -> str:
    """The separation ranks of known matrices, and the errors on weights."""
    known = numbers["known"]
    head = ["64 × 64 in 8×8 ⊗ 8×8", "separation rank", *(f"at {tol:.0e}" for tol in TOLERANCES)]
    rows = [[name, known[name]["exact"], *known[name]["at_tolerance"]] for name in EXPECTED]
    text = _study.table(head, rows)
    text += "\n\nRandom matrices of rank r whose separation rank is below the simple bound:\n\n"
    below = numbers["generic"]["below"]
    text += _study.table(
        ["shapes", "r", "bound", "separation rank"], [[c["shapes"], c["rank"], c["bound"], c["found"]] for c in below]
    )
    text += "\n\nWeights: median relative error at the parameters of rank r (terms in brackets):\n\n"
    head = ["matrices", "sum of", *(f"r = {r}" for r in numbers["ranks"])]
    rows = []
    for kind, group in numbers["weights"].items():
        for name, label in CLASSES.items():
            found = [middle(group["errors"][name], i) for i in range(len(numbers["ranks"]))]
            cells = ["" if e is None else f"{e:.3f} ({k})" for e, k in zip(found, group["terms"][name], strict=True)]
            rows.append([kind if name == "low_rank" else "", label, *cells])
    return text + _study.table(head, rows)


# --- the figure ---------------------------------------------------------------------------------------------------------

COLOURS = ["#222222", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"]
SHOWN = {  # of the known matrices: a short name and the colour
    "inverse 1-D Laplacian": ("inverse Laplacian", COLOURS[1]),
    "DFT, digits reversed": ("DFT, digits reversed", COLOURS[2]),
    "Hilbert 1/(i+j+1)": ("Hilbert", COLOURS[3]),
    "exp(−(i−j)²/50)": ("Gaussian kernel", COLOURS[4]),
    "random Toeplitz": ("random Toeplitz", COLOURS[5]),
    "random upper triangular": ("upper triangular", COLOURS[6]),
    "random u vᵀ": ("random u vᵀ", _style.INK),
    "perfect shuffle": ("perfect shuffle", _style.QUIET),
}
LOOKS = {
    "low_rank": {"color": COLOURS[0], "marker": "o"},
    "two": {"color": COLOURS[1], "marker": "s"},
    "tree": {"color": COLOURS[6], "marker": "v", "linestyle": "--"},
    "three": {"color": COLOURS[2], "marker": "^"},
}


def plot(numbers: dict[str, Any]) -> Any:
    """Above what the appendix gets wrong and what known matrices need; below the paper's factor, and trained weights."""
    figure = _style.figure(14.5, 8.8)
    panels = figure.subplots(2, 3)
    grown(panels[0, 0], numbers)
    spectra(panels[0, 1], numbers)
    factor(panels[0, 2], numbers)
    kinds = numbers["weights"]
    square = [k for k in kinds if k != NOISE and kinds[k]["shape"][0] == kinds[k]["shape"][1]]
    others = [k for k in kinds if k != NOISE and k not in square]
    groups = [("attention weights", square), ("feed-forward weights", others), (NOISE, [NOISE])]
    for ax, (title, names) in zip(panels[1], groups, strict=True):
        if names:
            trained_panel(ax, title, [kinds[k] for k in names])
        else:
            ax.axis("off")
    panels[1, 0].set_ylabel("relative error, spaced by log(1 − error²)")
    panels[1, 2].legend(loc="lower left", title="at equal parameters", alignment="left")
    return figure


def grown(ax: Any, numbers: dict[str, Any]) -> None:
    """Separation rank against matrix rank: lines from the formula, points computed."""
    places = [(1.2, 66.0), (3.4, 50.0), (9.5, 34.5), (9.6, 6.0)]
    for k, (shapes, row) in enumerate(numbers["growth"].items()):
        ranks, look = range(1, len(row["found"]) + 1), {"color": COLOURS[k], "markeredgecolor": "white"}
        ax.plot(ranks, row["foretold"], linewidth=1.2, color=COLOURS[k])
        ax.plot(ranks, row["found"], linestyle="", marker="osD^"[k], markersize=9 if k == 0 else 6, **look)
        ax.text(*places[k], shapes, color=COLOURS[k])
    ax.annotate(
        "“rank r, so r terms” holds for these\nshapes, and for all shapes where the\ncolumns are Kronecker products",
        (12, 12),
        (7.0, 18.5),
        fontsize=9,
        arrowprops={"arrowstyle": "-", "color": _style.QUIET, "linewidth": 0.8},
    )
    ax.set_title("random 64 × 64 matrices of rank r: terms needed")
    ax.set_xlabel("matrix rank r")
    ax.set_ylabel("separation rank")
    ax.set_xlim(0, 16.6)
    ax.set_ylim(0, 71)
    ax.set_yticks(range(0, 65, 16))


def spectra(ax: Any, numbers: dict[str, Any]) -> None:
    """Error of the best s terms for known matrices; dotted to the number that is exact."""
    for name, (label, colour) in SHOWN.items():
        row = numbers["known"][name]
        errors = [e for e in row["errors"] if e > FLOOR]
        ax.plot(range(1, len(errors) + 1), errors, color=colour, marker=".", markersize=4, linewidth=1.3, label=label)
        if row["in_double"] == row["exact"] < 64:
            ax.plot([row["exact"] - 1, row["exact"]], [errors[-1], FLOOR / 3], color=colour, linestyle=":", linewidth=1)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks := [1, 2, 4, 8, 16, 32, 64], [str(t) for t in ticks])
    ax.set_yscale("log")
    ax.set_ylim(FLOOR / 3, 3)
    ax.set_title("64 × 64 in 8×8 ⊗ 8×8: error of the best s terms")
    ax.set_xlabel("terms s")
    ax.set_ylabel("relative error")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.0), fontsize=8.5, handlelength=1.0)


def factor(ax: Any, numbers: dict[str, Any]) -> None:
    """The error of LSR-Adapt's own shapes on a random factor, and where they stop saving."""
    found = numbers["adapter"]
    each, dense = found["parameters"]["per term"], found["parameters"]["dense 768 × 4"]
    errors = [*found["errors"], 0.0]
    x = [each * (s + 1) for s in range(len(errors))]
    ax.axvspan(dense, 1.04 * x[-1], color="#f2f2f2", zorder=0)
    ax.plot(x, errors, color=COLOURS[2], marker=".", markersize=5)
    for s, text, place in (
        (
            16,
            f"LSR-Adapt: 16 terms,\n{each * 16:,} parameters,\nerror {errors[15]:.2f}",
            (x[15] + 350, errors[15] + 0.13),
        ),
        (48, "exact with\n48 terms", (x[47] - 1900, 0.05)),
    ):
        ax.plot(x[s - 1], errors[s - 1], marker="o", color=COLOURS[5], markeredgecolor="white")
        ax.annotate(
            text,
            (x[s - 1], errors[s - 1]),
            place,
            fontsize=9.5,
            arrowprops={"arrowstyle": "-", "color": _style.QUIET, "linewidth": 0.8},
        )
    ax.text(
        dense + 60, 0.95, f"more than the {dense:,}\nentries of the factor", va="top", fontsize=9.5, color=_style.QUIET
    )
    ax.set_title("a random 768 × 4 factor as a sum of 32×2 ⊗ 24×2")
    ax.set_xlabel("parameters")
    ax.set_ylabel("relative error of the best sum")
    ax.set_ylim(-0.02, 1)
    ax.set_xlim(0, 1.04 * x[-1])


def trained_panel(ax: Any, title: str, groups: list[dict[str, Any]]) -> None:
    """Median errors over all matrices of some kinds against the share of the dense parameters, with the range."""
    shares = [100 * s for s in groups[0]["shares"]]
    for name, label in CLASSES.items():
        rows = [row for group in groups for row in group["errors"][name]]
        at = [i for i in range(len(shares)) if middle(rows, i) is not None]
        columns = [[row[i] for row in rows if row[i] is not None] for i in at]
        x = [shares[i] for i in at]
        ax.plot(
            x, [median(c) for c in columns], label=label, markeredgecolor="white", markeredgewidth=0.6, **LOOKS[name]
        )
        ax.fill_between(
            x, [min(c) for c in columns], [max(c) for c in columns], color=LOOKS[name]["color"], alpha=0.12, linewidth=0
        )
    by_share_caught(ax)
    ax.set_xscale("log")
    ax.set_xticks(shares, [f"{t:.2g}" for t in shares])
    ax.minorticks_off()
    ax.set_xlim(shares[0] / 1.3, shares[-1] * 1.3)
    ax.set_ylim(0.55, 0.9985)
    ax.set_xlabel("share of the dense parameters, %")
    many = sum(len(group["errors"]["low_rank"]) for group in groups)
    size = " × ".join(map(str, groups[0]["shape"]))
    ax.set_title(f"{title} ({many} of {size})" if many > 1 else f"{title} ({size})")


if __name__ == "__main__":
    sys.exit(_study.main(only="separation_rank"))
