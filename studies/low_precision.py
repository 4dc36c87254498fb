"""bfloat16 and float16: what κ and the precision of the parameters do to separated matrices and to LSR-Adapt's updates.

LSR-Adapt names low precision as its limitation and makes no experiment. The rule of Beylkin and Mohlenkamp (2005) asks κ u <= ε
of a relative error ε, u the unit roundoff. (1) Factors of separated matrices with κ from 0.5 to 10⁵ are rounded, and
the error of the sum is compared with κ u. (2) The same inside an LSR update of 768 × 768: with its parameters in bfloat16 or
float16, and under autocast, which keeps them in float32. (3) Updates are trained in each precision, and κ is
watched. (4) Structures that multiply by FFTs, which half precision does not have.
"""

import copy
import math
import sys
import warnings
from typing import Any

import numpy as np

import sepmat as sm
from studies import _study, _style
from studies._trained import MARKS, TASKS, even, relative, rounded, train

STATUS = "illustration"
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {
        "steps": 60,
        "seeds": 1,
        "processes": 1,
        "fits": 1,
        "strengths": [1, 100],
        "sines": [2, 10],
        "n": 96,
        "size": 48,
    },
    "paper": {
        "steps": 800,
        "seeds": 5,
        "processes": None,
        "fits": 5,
        "strengths": [1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5],
        "sines": [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28],
        "n": 768,
        "size": 192,
    },
}
ROUNDOFF = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
PRECISIONS = {  # name: (colour, marker)
    "float32": (_style.INK, "o"),
    "autocast": ("#56B4E9", "v"),
    "float16": ("#009E73", "s"),
    "bfloat16": ("#D55E00", "^"),
    "orthogonal": ("#E69F00", "D"),
}
LABELS = {
    "float32": "float32",
    "autocast": "float32, autocast to bfloat16",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "orthogonal": "bfloat16, terms made orthogonal first",
}
FAMILIES = {
    "pair": "two factors, one pair cancels",
    "border": "three factors, near border rank 2",
    "sine": "sin(x₁ + … + x_d), d factors",
    "fits": "fits of 8 × 8 matrices, three factors",
    "inverse": "inverse Laplacian, three factors",
}
MODES = ("float32", "autocast", "float16", "bfloat16")
TOLERANCE = 1e-3  # ε of the rule in the table


# (1) rounded factors ----------------------------------------------------------------------------------------------------


def representations(p: dict[str, Any], rng: Any) -> list[tuple[str, sm.Separated]]:
    """Separated matrices with small and large κ."""
    a, b = np.linalg.qr(rng.standard_normal((16, 2)))[0].T.reshape(2, 4, 4)
    found = []
    for g in p["strengths"]:
        found.append(("pair", cancelling((32, 24), 2, 16, g, rng)))
        h = 1 / g
        found.append(("border", sm.Separated([np.stack([a + h * b, a])] * 3, [1 / h, -1 / h])))
    found += [("sine", sm.sin_sum(8, d)) for d in p["sines"]]
    found += [("inverse", sm.inverse_laplacian(8, 3, terms=k)) for k in (2, 4, 6)]
    for _ in range(p["fits"]):
        M = rng.standard_normal((8, 8))
        fits = [_study.settle(sm.nearest_separated, M, ((2, 2),) * 3, r) for r in (2, 4, 5)]
        found += [("fits", fit.matrix) for fit in fits]
    return found


def cancelling(sizes: tuple[int, int], columns: int, terms: int, strength: float, rng: Any) -> sm.Separated:
    """Random terms and two large ones, g x ⊗ y and -g x ⊗ (y - z/g), whose sum x ⊗ z is of the size of the others."""
    A1, A2 = (rng.standard_normal((terms, m, columns)) for m in sizes)
    A1[-1] = A1[-2]
    root = math.sqrt(strength)
    A1[-2:] *= root
    A2[-1] = A2[-1] / root - root * A2[-2]
    A2[-2] *= root
    return sm.Separated([A1, A2])


def rounding(p: dict[str, Any], rng: Any) -> list[dict[str, Any]]:
    """The relative error of each representation after its factors were rounded, next to its κ."""
    out = []
    for family, A in representations(p, rng):
        A = even(A)
        size = float(sm.norm(A))
        errors = {
            name: float(sm.norm(A - sm.Separated([rounded(F, name) for F in A.factors]))) / size for name in ROUNDOFF
        }
        out.append({"family": family, "factors": len(A.factors), "kappa": A.condition_number, **errors})
    return out


def admissible(points: list[dict[str, Any]]) -> dict[str, Any]:
    """κ up to which the rule promises the error 1e-3, and the largest measured κ up to which every error was smaller."""
    out = {}
    for name, u in ROUNDOFF.items():
        above = [q["kappa"] for q in points if q[name] > TOLERANCE]
        below = [q["kappa"] for q in points if q[name] <= TOLERANCE and q["kappa"] < min(above, default=math.inf)]
        out[name] = {
            "u": u,
            "rule": TOLERANCE / u,
            "measured": max(below, default=None),
            "first_above": min(above, default=None),
        }
    return out


# (2) one layer ----------------------------------------------------------------------------------------------------------


def layer(p: dict[str, Any], rng: Any) -> list[dict[str, Any]]:
    """The error of ΔW x, relative to that in float64, of an LSR update whose left factor has a cancelling pair."""
    import torch

    from sepmat.nn import StructuredUpdate
    from sepmat.nn.contract import split

    n = p["n"]
    x = torch.tensor(rng.standard_normal((64, n))).bfloat16().double()
    out = []
    for strength in p["strengths"]:
        exact = StructuredUpdate(n, n, "lsr", rank=4, terms=16, dtype=torch.float64)
        A = cancelling(split(n), 2, 16, strength, rng)
        B = [rng.standard_normal(tuple(F.shape)) / math.sqrt(n) for F in (exact.B1, exact.B2)]
        fill(exact, (*A.factors, *B))
        orthogonal = even(sm.compress(A, rank=16).matrix)
        again = StructuredUpdate(n, n, "lsr", rank=4, terms=16, dtype=torch.float64)
        fill(again, (*padded(orthogonal, 16), *B))
        with torch.no_grad():
            y = exact(x)
            found = {
                name: relative(copy.deepcopy(exact).to(getattr(torch, name))(x.to(getattr(torch, name))), y)
                for name in ROUNDOFF
            }
            with torch.autocast("cpu", torch.bfloat16):
                found["autocast"] = relative(copy.deepcopy(exact).float()(x.float()), y)
            found["orthogonal"] = relative(again.bfloat16()(x.bfloat16()), y)
        out.append({"kappa": A.condition_number, **found})
    return out


def most_in_u(layers: list[dict[str, Any]]) -> dict[str, float]:
    """The largest errors of what does not depend on κ, in u of bfloat16."""
    return {name: max(q[name] for q in layers) / ROUNDOFF["bfloat16"] for name in ("autocast", "orthogonal")}


def fill(update: Any, values: Any) -> None:
    """The parameters A1, A2, B1, B2 set to these arrays."""
    import torch

    with torch.no_grad():
        for name, value in zip(("A1", "A2", "B1", "B2"), values, strict=True):
            getattr(update, name).copy_(torch.tensor(np.asarray(value)))


def padded(A: sm.Separated, terms: int) -> list[Any]:
    """The factors with terms of zeros up to so many."""
    return [np.concatenate([F, np.zeros((terms - A.terms, *F.shape[1:]))]) for F in A.factors]


# (3) training -----------------------------------------------------------------------------------------------------------


def training(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """All tasks in all precisions."""
    seeds = [int(s) for s in rng.integers(2**31, size=p["seeds"])]
    keys = [(name, mode) for name in TASKS for mode in MODES]
    jobs = [(name, mode, p["size"], p["steps"], seed) for name, mode in keys for seed in seeds]
    runs = _study.parallel(train, jobs, "updates", p["processes"])
    out: dict[str, Any] = {name: {} for name in TASKS}
    for at, (name, mode) in enumerate(keys):
        own = runs[at * len(seeds) : (at + 1) * len(seeds)]
        errors, kappas = np.array([r["errors"] for r in own]), np.array([r["kappas"] for r in own])
        out[name][mode] = {
            "final": [r["final"] for r in own],
            "median": np.median(errors, axis=0),
            "low": errors.min(axis=0),
            "high": errors.max(axis=0),
            "kappa": np.median(kappas, axis=0),
            "kappa_most": kappas.max(),
        }
        if mode == "float32":
            out[name]["rounded"] = [q for r in own for q in r["rounded"]]
    return out


def adam_in_half() -> dict[str, bool]:
    """Whether a parameter is finite after one step of Adam with its default ε, and with 1e-4: gradients of 0 and 1e-4."""
    import torch

    out = {}
    for eps in (1e-8, 1e-4):
        q = torch.nn.Parameter(torch.ones(2, dtype=torch.float16))
        q.grad = torch.tensor([0, 1e-4], dtype=torch.float16)
        torch.optim.Adam([q], lr=1e-2, eps=eps).step()
        out[f"{eps:g}"] = bool(torch.isfinite(q).all())
    return out


# (4) transforms ---------------------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "circulant": ("circulant", {}),
    "toeplitz": ("Toeplitz", {}),
    "symmetric_toeplitz": ("symmetric Toeplitz", {}),
    "ldr": ("low displacement rank, 2 terms", {"rank": 2}),
    "kronecker": ("Kronecker", {}),
    "lsr": ("LSR, rank 4", {"rank": 4}),
    "lora": ("LoRA, rank 4", {"rank": 4}),
}


def transforms(n: int, seed: int) -> dict[str, Any]:
    """Errors of products and gradients of layers in bfloat16 and under autocast, against float64 on the same numbers."""
    import torch

    from sepmat.nn import StructuredLinear

    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(64, n, generator=draw).bfloat16().float()
    g = torch.randn(64, n, generator=draw).bfloat16().float()
    out: dict[str, Any] = {}
    for name, (_, options) in LAYERS.items():
        half = StructuredLinear(n, n, name, bias=False, dtype=torch.bfloat16, generator=draw, **options)
        exact = copy.deepcopy(half).double()
        single = copy.deepcopy(half).float()
        y, gradient = product(exact, x.double(), g.double())
        z, found = product(half, x.bfloat16(), g.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            w, cast = product(single, x, g.bfloat16())
        dense = x.bfloat16() @ exact.to_dense().detach().bfloat16().T
        out[name] = {
            "transforms": half.parametrisation.transforms,
            "bfloat16": relative(z, y),
            "gradient": relative(found, gradient),
            "autocast": relative(w, y),
            "autocast_gradient": relative(cast, gradient),
            "autocast_dtype": str(w.dtype).removeprefix("torch."),
            "dense": relative(dense, y),
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.fft.rfft(x.bfloat16())
            out["has_fft"] = True
        except RuntimeError:
            out["has_fft"] = False
    return out


def product(module: Any, x: Any, g: Any) -> tuple[Any, Any]:
    """The product with x, and all gradients of <g, product> in one vector."""
    import torch

    y = module(x)
    y.backward(g)
    return y.detach(), torch.cat([q.grad.flatten() for q in module.parameters()])


# the study --------------------------------------------------------------------------------------------------------------


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """The four parts."""
    points, layers = rounding(p, rng), layer(p, rng)
    ratios = {
        name: [q[name] / (q["kappa"] * u) for q in points if q["kappa"] * u < 0.1] for name, u in ROUNDOFF.items()
    }
    return {
        "rounding": points,
        "ratio": {name: {"least": min(r), "most": max(r)} for name, r in ratios.items()},
        "admissible": admissible(points),
        "layer": layers,
        "layer_most_in_u": most_in_u(layers),
        "training": training(p, rng),
        "steps": p["steps"],
        "seeds": p["seeds"],
        "adam_finite": adam_in_half(),
        "transforms": transforms(p["n"], int(rng.integers(2**31))),
    }


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """What κ decides, and what it does not."""
    ratio, layers, tasks = numbers["ratio"], numbers["layer"], numbers["training"]
    finals = {name: {mode: float(np.median(tasks[name][mode]["final"])) for mode in MODES} for name in TASKS}
    after = [q for name in TASKS for q in tasks[name]["rounded"]]
    transform = {k: v for k, v in numbers["transforms"].items() if isinstance(v, dict)}
    worst = max(layers, key=lambda q: q["kappa"])
    u = ROUNDOFF["bfloat16"]
    out = {
        "rounding the factors costs κ u: between 0.2 and 2 of it, in every family, in every precision": all(
            r["least"] >= 0.2 and r["most"] <= 2 for r in ratio.values()
        ),
        "ε = 1e-3 is out of reach of bfloat16 for every representation here, whatever its κ": (
            numbers["admissible"]["bfloat16"]["measured"] is None
        ),
        "κ of trained updates stays below 2 in every task, precision and run: terms do not cancel": all(
            tasks[name][mode]["kappa_most"] < 2 for name in TASKS for mode in MODES
        ),
        "rounding trained parameters to bfloat16 or float16 changes ΔW by at most u κ ‖L‖ ‖R‖ / ‖L R‖, L and R its two thin factors": all(
            q[name] <= ROUNDOFF[name] * q["kappa"] * q["gain"] for q in after for name in ("bfloat16", "float16")
        ),
        "under autocast the error of a layer does not depend on κ: at most 1.5 u, for parameters stay in float32": all(
            q["autocast"] <= 1.5 * u for q in layers
        ),
        "with parameters in bfloat16 it grows like κ u, between 0.2 and 2 of it": all(
            0.2 <= q["bfloat16"] / (q["kappa"] * u) <= 2 for q in layers if 2 <= q["kappa"] < 0.1 / u
        ),
        "the same ΔW with orthogonal terms (compress, κ = 1) loses at most 2 u in bfloat16, whatever κ was": all(
            q["orthogonal"] <= 2 * u for q in layers
        ),
        "circulant, Toeplitz and low displacement rank in bfloat16 lose what rounding the result costs, less than u/2": all(
            v["bfloat16"] < u / 2 for v in transform.values() if v["transforms"]
        ),
        "under autocast they give bfloat16, and their parameters gradients right to 1e-6: the transforms stay in float32": all(
            v["autocast_dtype"] == "bfloat16" and v["autocast_gradient"] < 1e-6
            for v in transform.values()
            if v["transforms"]
        ),
        "torch has no FFT in bfloat16": not numbers["transforms"]["has_fft"],
        "Adam's default ε = 1e-8 is zero in float16: a parameter is not finite after one step; with 1e-4 it is": (
            numbers["adam_finite"] == {"1e-08": False, "0.0001": True}
        ),
    }
    if worst["kappa"] > 1e4:
        out[
            "at κ = 3e4 bfloat16 parameters have lost ΔW altogether (error above 1), float32 ones have three digits"
        ] = worst["bfloat16"] > 1 and worst["float32"] < 5e-3
    if numbers["steps"] >= 500:
        own, rank4, digits = (finals[name] for name in TASKS)
        stuck = {mode: [v > 0.1 for v in tasks["lsr"][mode]["final"]] for mode in MODES}
        out |= {
            "a ΔW of the class: float32 finds it to 1e-6, float32 under autocast to less than u of bfloat16, parameters in half precision to 10 u": (
                own["float32"] < 1e-6
                and own["autocast"] < u
                and all(ROUNDOFF[name] <= own[name] <= 10 * ROUNDOFF[name] for name in ("float16", "bfloat16"))
            ),
            "one run of five does not find it in any precision, a local minimum and no matter of rounding; float16 loses a second": (
                all(stuck[mode] == stuck["float32"] for mode in ("autocast", "bfloat16"))
                and sum(stuck["float32"]) == 1
                and sum(stuck["float16"]) == 2
            ),
            "where the class is the limit, a ΔW of rank 4, all precisions end within 5 % of one another": (
                max(rank4.values()) <= 1.05 * min(rank4.values())
            ),
            "on the digits the precisions end within 3 points of test error of one another": (
                max(digits.values()) - min(digits.values()) <= 0.03
            ),
        }
    return out


def tables(numbers: dict[str, Any]) -> str:
    """The rule, training, transforms."""
    rule = [
        [
            LABELS[name],
            f"{q['u']:.1e}",
            f"{q['rule']:.3g}",
            "none" if q["measured"] is None else f"{q['measured']:.3g}",
            "none" if q["first_above"] is None else f"{q['first_above']:.3g}",
            f"{numbers['ratio'][name]['least']:.2f} to {numbers['ratio'][name]['most']:.2f}",
        ]
        for name, q in numbers["admissible"].items()
    ]
    trained = [
        [text, LABELS[mode], *(f"{f(c['final']):.2g}" for f in (np.median, min, max)), f"{c['kappa_most']:.2f}"]
        for name, text in TASKS.items()
        for mode, c in ((mode, numbers["training"][name][mode]) for mode in MODES)
    ]
    layers = [
        [
            text,
            *(
                f"{numbers['transforms'][name][key]:.1e}"
                for key in ("bfloat16", "gradient", "autocast", "autocast_gradient", "dense")
            ),
        ]
        for name, (text, _) in LAYERS.items()
    ]
    return (
        f"κ that a relative error ε = {TOLERANCE:g} admits:\n\n"
        + _study.table(["precision", "u", "rule: ε/u", "largest κ within ε", "least κ beyond ε", "error / (κ u)"], rule)
        + f"\n\nFinal error of ΔW (digits: test error) of {numbers['seeds']} runs, and the largest κ that was seen:\n\n"
        + _study.table(["task", "parameters", "median", "least", "most", "κ"], trained)
        + "\n\nRelative errors of layers, against float64 with the same parameters:\n\n"
        + _study.table(
            ["structure", "in bfloat16", "its gradient", "autocast", "its gradient", "dense in bfloat16"], layers
        )
    )


# the figure -------------------------------------------------------------------------------------------------------------


def look(name: str, **more: Any) -> dict[str, Any]:
    """How a precision is drawn."""
    colour, marker = PRECISIONS[name]
    return {
        "color": colour,
        "marker": marker,
        "label": LABELS[name],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    } | more


def plot(numbers: dict[str, Any]) -> Any:
    """Above: errors against κ, of rounded representations and of a layer; below: training, and κ along it."""
    figure = _style.figure(12.5, 9.4)
    (one, two), (three, four) = figure.subplots(2, 2)
    kappa = np.geomspace(0.5, 2e5, 50)
    for name, u in ROUNDOFF.items():
        for ax in (one, two):
            ax.plot(kappa, kappa * u, color=PRECISIONS[name][0], linewidth=0.9, linestyle="--", zorder=1)
        points = [(q["kappa"], q[name]) for q in numbers["rounding"]]
        one.plot(*zip(*points, strict=True), **look(name, linestyle="", alpha=0.85))
    one.axhline(TOLERANCE, color=_style.QUIET, linewidth=1, linestyle=":")
    one.annotate("ε = 1e-3", (2e4, TOLERANCE), xytext=(0, -12), textcoords="offset points", color=_style.QUIET)
    one.set_title("Separated matrices with rounded factors; dashed: κ u")
    for name in ("bfloat16", "float16", "float32", "autocast", "orthogonal"):
        points = sorted((q["kappa"], q[name]) for q in numbers["layer"])
        two.plot(*zip(*points, strict=True), **look(name))
    two.set_title("LSR update, 768 × 768, whose left factor has this κ")
    for ax in (one, two):
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_ylim(1e-8, 5)
        ax.set_xlabel("condition number κ of the representation")
        ax.set_ylabel("relative error")
    one.legend(loc="lower right")
    two.legend(loc="lower right")
    steps = np.linspace(0, numbers["steps"], MARKS + 1)[1:]
    for mode in MODES:
        c = numbers["training"]["lsr"][mode]
        three.plot(steps, c["median"], **look(mode))
        for key in ("low", "high"):
            three.plot(steps, c[key], color=PRECISIONS[mode][0], alpha=0.45, linewidth=0.9)
        if mode in ROUNDOFF and mode != "float32":
            three.axhline(ROUNDOFF[mode], color=PRECISIONS[mode][0], linewidth=0.9, linestyle="--")
    three.set_yscale("log")
    three.set_title("Training towards a ΔW of the class; thin: best and worst run; dashed: u")
    three.set_ylabel("relative error of ΔW")
    three.legend(loc="lower left")
    for (name, text), line in zip(TASKS.items(), ("-", "--", ":"), strict=True):
        for mode in MODES:
            four.plot(
                steps,
                numbers["training"][name][mode]["kappa"],
                **look(mode, linestyle=line, markersize=4, label=text if mode == "float32" else None),
            )
    four.set_ylim(0, 2.05)
    four.axhline(1, color=_style.QUIET, linewidth=0.9)
    four.set_title("κ of the trained factors: no cancellation (colours as on the left)")
    four.set_ylabel("largest κ of the factors, median run")
    four.legend(loc="lower left")
    for ax in (three, four):
        ax.set_xlabel("step")
    return figure


if __name__ == "__main__":
    sys.exit(_study.main(only="low_precision"))
