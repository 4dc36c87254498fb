"""Deblurring a photograph: structured matrices for the blur, preconditioners for the restoration.

b = A x + noise, A a spatially invariant blur. Beyond the border the scene goes on, and the matrix has to guess how: zero
outside (block Toeplitz), periodic (block circulant), or mirrored (Hansen, Nagy & O'Leary, "Deblurring images", 2006: Toeplitz
plus Hankel blocks). A point spread function of rank r makes the mirrored blur a sum of r Kronecker products. Tikhonov's
min ‖A x − b‖² + μ² ‖x‖² is solved by conjugate gradients on its normal equations, with no preconditioner, with the
nearest Kronecker product (Kamm & Nagy 1998), with the sum of all r terms in its singular bases, and with the block
circulant matrix (BCCB) of the same blur.

The scene is larger than the picture and is blurred before it is cut, so no boundary condition is the truth.
"""

import base64
import sys
import time
from typing import Any

import numpy as np

import sepmat as sm
from studies import _study, _style

STATUS = "illustration"
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"n": 48, "radius": 5, "crop": 48, "grid": 5},
    "paper": {"n": 256, "radius": 12, "crop": 128, "grid": 9},
}
NOISE = 0.005  # ‖noise‖ / ‖blurred‖
RTOL = 1e-6  # of the normal equations
BLURS = ("gaussian", "disk", "motion")
BOUNDARIES = {"zero": "zero (BTTB)", "periodic": "periodic (BCCB)", "reflexive": "mirrored (Kronecker sum)"}
PRECONDITIONERS = {  # name: (label, colour, marker)
    "none": ("none", _style.INK, "o"),
    "kronecker": ("nearest Kronecker product", _style.STRUCTURES["kronecker"][1], "s"),
    "kronecker_sum": ("Kronecker sum, all terms", _style.STRUCTURES["displacement"][1], "X"),
    "bccb": ("BCCB", _style.STRUCTURES["circulant"][1], "^"),
}

KRONECKER = ("kronecker", "kronecker_sum")


# the blur ---------------------------------------------------------------------------------------------------------------


def scene(n: int) -> Any:
    """The middle of a photograph that comes with scikit-learn, grey, between 0 and 1, n × n."""
    from sklearn.datasets import load_sample_image

    grey = load_sample_image("china.jpg").astype(float) @ [0.299, 0.587, 0.114] / 255
    top, left = (grey.shape[0] - n) // 2, (grey.shape[1] - n) // 2
    return grey[top : top + n, left : left + n]


def point_spread(name: str, radius: int) -> Any:
    """(2 radius + 1)² weights that sum to 1: a Gaussian, an out-of-focus disk, or the track of a camera that accelerates."""
    i = np.arange(-radius, radius + 1)
    if name == "gaussian":
        P = np.exp(-(i[:, None] ** 2 + i**2) / (2 * (radius / 4) ** 2))
    elif name == "disk":
        P = np.clip(0.6 * radius + 0.5 - np.hypot(i[:, None], i), 0, 1)
    else:
        P = np.zeros((len(i), len(i)))
        for s in np.linspace(0, 1, 400):  # one-sided, slow at first: not symmetric
            y, x = radius + 0.45 * radius * s**2, radius + 0.8 * radius * s**2
            k, l = int(y), int(x)
            u, v = y - k, x - l
            P[k : k + 2, l : l + 2] += np.outer([1 - u, u], [1 - v, v])
    return P / P.sum()


def mirrored(u: Any, n: int) -> Any:
    """The n × n matrix of the convolution with u, whose middle is its centre, of a signal that is mirrored at its ends."""
    p = len(u) // 2
    t, h = np.zeros(2 * n - 1), np.zeros(2 * n - 1)
    t[n - 1 - p : n + p] = u
    h[:p], h[2 * n - 1 - p :] = u[p + 1 :], u[:p]
    return (sm.Toeplitz(t[n - 1 :], t[n - 1 :: -1]) + sm.Hankel(h[:n], h[n - 1 :])).to_dense()


def reflexive_blur(P: Any, n: int) -> sm.Separated:
    """Σ σ_l (T + H)(u_l) ⊗ (T + H)(v_l) from the singular value decomposition of the point spread function."""
    U, s, Vt = np.linalg.svd(P)
    r = int(np.sum(s > 1e-12 * s[0]))
    stacks = [np.stack([mirrored(w, n) for w in W[:r]]) for W in (U.T, Vt)]
    return sm.Separated(stacks, s[:r])


def zero_blur(P: Any, n: int) -> sm.MultilevelToeplitz:
    p = len(P) // 2
    return sm.MultilevelToeplitz(np.pad(P, n - 1 - p))


def convolved(P: Any, image: Any) -> Any:
    """The convolution where it needs nothing from beyond the border, directly: the sum of shifted images."""
    k = len(P)
    n = len(image) - k + 1
    return sum(
        P[k - 1 - i, k - 1 - j] * image[i : i + n, j : j + n]
        for i in range(k)
        for j in range(k)
        if P[k - 1 - i, k - 1 - j]
    )


# restoration ------------------------------------------------------------------------------------------------------------


def preconditioner(name: str, A: Any, T: sm.MultilevelToeplitz, terms: int, mu: float) -> Any:
    """An approximate inverse of AᵀA + μ² I, or None."""
    if name == "none":
        return None
    if name == "bccb":
        C = sm.strang(T)
        return sm.inverse(C.H @ C + mu**2 * sm.Identity(C.shape[0]))
    return sm.inverse(sm.kronecker_preconditioner(A, terms=1 if name == "kronecker" else terms, damp=mu))


def restore(A: Any, b: Any, mu: float, M: Any, solution: Any = None, rtol: float = RTOL) -> tuple[Any, dict[str, Any]]:
    """The Tikhonov solution by conjugate gradients, and how far the iterates were from the given solution."""
    distances: list[float] = []
    watch = None if solution is None else lambda x: distances.append(error(x, solution))
    N = A.H @ A + mu**2 * sm.Identity(b.size)
    start = time.perf_counter()
    found = _study.settle(lambda: sm.interop.cg(N, A.H @ b.ravel(), rtol=rtol, maxiter=2000, M=M, callback=watch))
    seconds = time.perf_counter() - start
    return found.x, {
        "iterations": found.iterations,
        "distances": distances,
        "residual": found.relative_residual,
        "converged": found.converged,
        "seconds": seconds,
    }


def error(x: Any, truth: Any) -> float:
    return float(np.linalg.norm(x.ravel() - truth.ravel()) / np.linalg.norm(truth))


def best_of(solve: Any, mus: Any, truth: Any) -> dict[str, Any]:
    """The regularisation with the smallest error, which only a study knows."""
    errors = [error(solve(mu), truth) for mu in mus]
    k = int(np.argmin(errors))
    return {"mu": mus[k], "error": errors[k], "inside": 0 < k < len(mus) - 1}


def one_blur(name: str, p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """The restoration of one picture: three boundary conditions, then four preconditioners for the mirrored one."""
    n, radius = p["n"], p["radius"]
    large, P = scene(n + 2 * radius), point_spread(name, radius)
    truth, blurred = large[radius:-radius, radius:-radius], convolved(P, large)
    noise = rng.standard_normal((n, n))
    b = blurred + NOISE * np.linalg.norm(blurred) / np.linalg.norm(noise) * noise
    mus = np.geomspace(0.003, 1.0, p["grid"])
    A, T = reflexive_blur(P, n), zero_blur(P, n)
    C = sm.strang(T)
    I = sm.Identity(n * n)
    solvers = {
        "zero": lambda mu: restore(T, b, mu, sm.inverse(C.H @ C + mu**2 * I))[0],
        "periodic": lambda mu: sm.solve(C.H @ C + mu**2 * I, C.H @ b.ravel()),
        "reflexive": lambda mu: restore(A, b, mu, preconditioner("kronecker_sum", A, T, A.terms, mu))[0],
    }
    boundaries = {key: best_of(solvers[key], mus, truth) for key in _study.progress(solvers, f"{name}, boundaries")}
    mu = boundaries["reflexive"]["mu"]
    systems = {}
    for system, B in (("reflexive", A), ("zero", T)):
        M = preconditioner("kronecker_sum", B, T, A.terms, mu)
        solution = restore(B, b, mu, M, rtol=1e-10)[0]
        runs = {}
        for key in _study.progress(PRECONDITIONERS, f"{name}, {BOUNDARIES[system]}"):
            start = time.perf_counter()
            M = preconditioner(key, B, T, A.terms, mu)
            setup = time.perf_counter() - start
            runs[key] = restore(B, b, mu, M, solution)[1] | {"setup": {"seconds": setup}}
        systems[system] = {"runs": runs, "error": error(solution, truth)}
        if system == "reflexive":
            x = solution.reshape(n, n)
    by_hand = convolved(P, np.pad(truth, radius, mode="symmetric"))
    return {
        "mu": mu,
        "terms": A.terms,
        "nearest_product": sm.compress(A, rank=1).relative_error,
        "matrix_deviation": _study.round_off(error(A @ truth.ravel(), by_hand)),
        "blurred": error(b, truth),
        "boundaries": boundaries,
        "systems": systems,
        "dct": error(by_dct(P, b, mu), x) if name != "motion" else None,
        "point_spread": P,
        "pictures": {
            key: encoded(image, p["crop"]) for key, image in (("truth", truth), ("blurred", b), ("restored", x))
        },
    }


def by_dct(P: Any, b: Any, mu: float) -> Any:
    """The same Tikhonov solution where the point spread function is symmetric: the cosine transform diagonalises A."""
    import scipy.fft

    unit = np.zeros(b.shape)
    unit[0, 0] = 1.0
    image = (reflexive_blur(P, len(b)) @ unit.ravel()).reshape(b.shape)
    values = scipy.fft.dctn(image, norm="ortho") / scipy.fft.dctn(unit, norm="ortho")
    return scipy.fft.idctn(values / (values**2 + mu**2) * scipy.fft.dctn(b, norm="ortho"), norm="ortho")


def encoded(image: Any, crop: int) -> list[str]:
    """The middle of a picture in 256 greys, a base64 string a row."""
    top = (len(image) - crop) // 2
    grey = np.round(255 * np.clip(image[top : top + crop, top : top + crop], 0, 1)).astype(np.uint8)
    return [base64.b64encode(row.tobytes()).decode() for row in grey]


def decoded(rows: list[str]) -> Any:
    return np.stack([np.frombuffer(base64.b64decode(row), np.uint8) for row in rows])


# the study --------------------------------------------------------------------------------------------------------------


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Everything for each blur."""
    return {"n": p["n"], "noise": NOISE, "rtol": RTOL, "blurs": {name: one_blur(name, p, rng) for name in BLURS}}


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """What the pictures and counts show."""
    blurs = numbers["blurs"]
    systems = [system for B in blurs.values() for system in B["systems"].values()]
    mirrored, zero = (
        {
            name: {key: run["iterations"] for key, run in B["systems"][system]["runs"].items()}
            for name, B in blurs.items()
        }
        for system in ("reflexive", "zero")
    )
    best = {name: {key: v["error"] for key, v in B["boundaries"].items()} for name, B in blurs.items()}
    return {
        "the mirrored blur is the sum of Kronecker products of the singular vectors of its point spread function, to 1e-13": all(
            B["matrix_deviation"] <= 1e-13 for B in blurs.values()
        ),
        "every solve meets a true residual of 1e-6 of the normal equations, and is within 1e-3 of the solution": all(
            run["converged"] and run["residual"] <= numbers["rtol"]
            for system in systems
            for run in system["runs"].values()
        )
        and all(run["distances"][-1] <= 1e-3 for system in systems for run in system["runs"].values()),
        "symmetric blurs: the solution is that of the cosine transform, to 1e-4": all(
            B["dct"] <= 1e-4 for B in blurs.values() if B["dct"] is not None
        ),
        "mirrored ends restore better than zero and periodic ones, for every blur": all(
            e["reflexive"] < min(e["zero"], e["periodic"]) for e in best.values()
        ),
        "every restoration is nearer to the truth than the blurred picture": all(
            best[name]["reflexive"] < B["blurred"] for name, B in blurs.items()
        ),
        "Gaussian: one Kronecker product is the matrix itself, and the first step solves, mirrored or zero": (
            max(mirrored["gaussian"]["kronecker"], zero["gaussian"]["kronecker"]) == 1
        ),
        "disk, mirrored: cosines diagonalise all terms, so their sum takes 1 step; the nearest product takes over 10": (
            mirrored["disk"]["kronecker_sum"] == 1 and mirrored["disk"]["kronecker"] > 10
        ),
        "motion, not symmetric: Kronecker preconditioners save less than half of the iterations, BCCB is the best at zero ends": (
            all(2 * its["motion"][key] > its["motion"]["none"] for its in (mirrored, zero) for key in KRONECKER)
            and zero["motion"]["bccb"] == min(zero["motion"].values())
        ),
        "BCCB knows nothing of mirrored ends: it saves less than half of the iterations of every blur": all(
            2 * i["bccb"] > i["none"] for i in mirrored.values()
        ),
    }


def tables(numbers: dict[str, Any]) -> str:
    """Boundary conditions; iterations."""
    n = numbers["n"]
    first = [
        [
            name,
            B["terms"],
            f"{B['nearest_product']:.2f}",
            f"{B['blurred']:.4f}",
            *(f"{B['boundaries'][k]['error']:.4f}" for k in BOUNDARIES),
        ]
        for name, B in numbers["blurs"].items()
    ]
    second = [
        [f"{name}, {word}", f"{B['mu']:.3g}", *(cell(run) for run in B["systems"][system]["runs"].values())]
        for system, word in (("reflexive", "mirrored"), ("zero", "zero"))
        for name, B in numbers["blurs"].items()
    ]
    return (
        f"{n} × {n} pixels, {numbers['noise']:.1%} noise; relative error of the picture as it came, and restored with the best μ:\n\n"
        + _study.table(["blur", "terms", "error of the nearest product", "blurred", *BOUNDARIES.values()], first)
        + "\n\nConjugate gradients, iterations to 1e-6 (seconds, with the preconditioner):\n\n"
        + _study.table(["blur", "μ", *(label for label, *_ in PRECONDITIONERS.values())], second)
    )


def cell(run: dict[str, Any]) -> str:
    return f"{run['iterations']} ({run['setup']['seconds'] + run['seconds']:.2g} s)"


def plot(numbers: dict[str, Any]) -> Any:
    """A row for each blur: the point spread function, before, after, the truth, and the errors of the iterates."""
    figure = _style.figure(13.5, 9.6)
    grid = figure.add_gridspec(3, 5, width_ratios=[0.55, 1, 1, 1, 1.5])
    for row, (name, B) in enumerate(numbers["blurs"].items()):
        spread, before, after, truth, curve = (figure.add_subplot(grid[row, k]) for k in range(5))
        reflexive = B["systems"]["reflexive"]
        spread.imshow(np.array(B["point_spread"]), cmap="gray_r")
        spread.set_title(f"{name}\nrank {B['terms']}")
        titles = (
            (before, "blurred", f"blurred and noisy: error {B['blurred']:.3f}"),
            (after, "restored", f"restored: error {reflexive['error']:.3f}"),
            (truth, "truth", "truth"),
        )
        for ax, key, title in titles:
            ax.imshow(decoded(B["pictures"][key]), cmap="gray", vmin=0, vmax=255)
            ax.set_title(title)
        for ax in (spread, before, after, truth):
            ax.axis("off")
        for key, (label, colour, marker) in PRECONDITIONERS.items():
            run = reflexive["runs"][key]
            steps, far = range(1, run["iterations"] + 1), np.maximum(run["distances"], 1e-7)
            curve.loglog(steps, far, color=colour)
            curve.plot(steps[-1:], far[-1:], color=colour, marker=marker, ls="", label=f"{label}: {run['iterations']}")
        curve.set_ylim(3e-8, 30)
        curve.set_title("distance from the solution")
        curve.legend(loc="lower center")
    curve.set_xlabel("iteration")
    return figure


if __name__ == "__main__":
    sys.exit(_study.main(only="deblurring"))
