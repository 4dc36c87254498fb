"""Small LSR-Adapt updates trained in a precision, and what rounding costs them: for the study low_precision."""

import math
from typing import Any

import numpy as np

import sepmat as sm

RANK, TERMS, MARKS = 4, 8, 20  # of the updates; how often they are looked at
TASKS = {"lsr": "ΔW of the class", "rank4": "ΔW of rank 4", "digits": "digits turned by 90°"}


def even(A: sm.Separated) -> sm.Separated:
    """The same terms with their scales shared out evenly among the factors."""
    A = A.normalized()
    root = A.scales ** (1 / len(A.factors)) if A.scales is not None else np.ones(A.terms)
    return sm.Separated([F * root[:, None, None] for F in A.factors])


def rounded(array: Any, precision: str) -> Any:
    """array rounded to a precision, in float64 again."""
    import torch

    return torch.tensor(np.asarray(array)).to(getattr(torch, precision)).double().numpy()


def relative(y: Any, exact: Any) -> float:
    return float((y.double() - exact).norm() / exact.norm())


def task(name: str, size: int, seed: int, dtype: Any) -> tuple[Any, Any, Any, Any]:
    """What is trained, its batches, the loss, and what is measured: the error of ΔW, or of the test images."""
    import torch
    from torch import nn

    from sepmat.nn import StructuredUpdate, parametrisation

    draw = torch.Generator().manual_seed(seed)
    if name == "digits":
        return turned_digits(size, seed, dtype)
    if name == "lsr":
        own = parametrisation("lsr", (size, size), rank=RANK, terms=TERMS)
        values = {k: torch.randn(s, generator=draw, dtype=torch.float64) for k, s in own.parameter_shapes().items()}
        delta = own.matrix(values).to_dense()
    else:
        U, V = torch.randn(2, size, 4, generator=draw, dtype=torch.float64)
        delta = U @ V.T
    delta *= math.sqrt(size) / delta.norm()
    module = StructuredUpdate(size, size, "lsr", rank=RANK, terms=TERMS, generator=draw).to(dtype)

    def batch() -> tuple[Any, Any]:
        x = torch.randn(128, size, generator=draw)
        return x, (x.double() @ delta.T).float()

    return module, batch, nn.functional.mse_loss, lambda: relative(module.to_dense().detach(), delta)


def turned_digits(size: int, seed: int, dtype: Any) -> tuple[Any, Any, Any, Any]:
    """A network that knows scikit-learn's digits learns them turned by 90°, by LSR updates of two frozen layers."""
    import torch
    from sklearn.datasets import load_digits
    from torch import nn
    from torch.nn.functional import cross_entropy

    from sepmat.nn import adapt

    data = load_digits()
    images, labels = torch.tensor(data.images / 16, dtype=torch.float32), torch.tensor(data.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(labels))
        train, test = order[:1347], order[1347:]
        net = nn.Sequential(nn.Linear(64, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 10))
        adam = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(60):
            adam.zero_grad()
            cross_entropy(net(images[train].flatten(1)), labels[train]).backward()
            adam.step()
        adapt(net, ["0", "2"], "lsr", rank=RANK, terms=TERMS)
    for layer in (net[0], net[2]):
        layer.update.to(dtype)
    turned, draw = torch.rot90(images, 1, (1, 2)).flatten(1), torch.Generator().manual_seed(seed)

    def batch() -> tuple[Any, Any]:
        chosen = train[torch.randint(len(train), (128,), generator=draw)]
        return turned[chosen], labels[chosen]

    def measure() -> float:
        with torch.no_grad():
            return float((net(turned[test]).argmax(1) != labels[test]).double().mean())

    return net, batch, cross_entropy, measure


def train(job: tuple[str, str, int, int, int]) -> dict[str, Any]:
    """One run: error and largest κ along it; for float32 also what rounding the result would cost."""
    import torch

    from sepmat.nn import StructuredUpdate

    name, mode, size, steps, seed = job
    torch.set_num_threads(1)
    dtype = torch.float32 if mode == "autocast" else getattr(torch, mode)
    module, batch, loss, measure = task(name, size, seed, dtype)
    updates = [m for m in module.modules() if isinstance(m, StructuredUpdate)]
    trained = [q for q in module.parameters() if q.requires_grad]
    # Adam's ε of 1e-8 is zero in float16, and its first step is infinite
    adam = torch.optim.Adam(trained, lr=1e-2, eps=1e-4 if mode == "float16" else 1e-8)
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1, 0.01, total_iters=steps)
    errors, kappas = [], []
    for step in range(steps):
        x, y = batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
            z = module(x)
        adam.zero_grad()
        loss(z.float(), y).backward()
        adam.step()
        decay.step()
        if (step + 1) % (steps // MARKS) == 0:
            errors.append(measure())
            kappas.append(max(A.condition_number for update in updates for A in sides(update)))
    out = {"errors": errors, "kappas": kappas, "final": errors[-1]}
    if mode == "float32":
        out["rounded"] = [after_training(update) for update in updates]
    return out


def sides(update: Any) -> tuple[sm.Separated, sm.Separated]:
    """Both factors of ΔW as separated matrices, in float64."""
    found = update.parametrisation.separated({k: q.detach().double() for k, q in update.named_parameters()})
    return tuple(sm.Separated([F.numpy() for F in A.factors]) for A in found)  # type: ignore[return-value]


def after_training(update: Any) -> dict[str, float]:
    """The error of ΔW when its trained parameters are rounded, as they are and with terms made orthogonal first."""
    A, B = sides(update)
    exact = A.to_dense() @ B.to_dense()
    C, D = (even(sm.compress(S, rank=S.terms).matrix) for S in (A, B))

    def error(*factors: sm.Separated, name: str) -> float:
        left, right = (sm.Separated([rounded(F, name) for F in S.factors]).to_dense() for S in factors)
        return float(np.linalg.norm(left @ right - exact) / np.linalg.norm(exact))

    return {
        "kappa": max(A.condition_number, B.condition_number),
        "gain": float(sm.norm(A) * sm.norm(B) / np.linalg.norm(exact)),  # what the product of the two factors cancels
        **{name: error(A, B, name=name) for name in ("float16", "bfloat16")},
        "orthogonal": error(C, D, name="bfloat16"),
    }
