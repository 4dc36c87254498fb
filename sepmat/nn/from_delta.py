"""An update that starts at a given ΔW: the parameters of the nearest matrix of a structure, with the true error.

A full fine-tune or a LoRA becomes an update of any structure; how much of it is lost is a number. The nearest matrices are
those of the core (`nearest_circulant`, `nearest_kronecker`, …); a rule says which parameters they are.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import _check
from ..errors import ArgumentError, ShapeError, UnsupportedError
from ..fit import Fit
from ..matrix import StructuredMatrix
from ..nearest import nearest_circulant, nearest_low_rank, nearest_skew_circulant, nearest_toeplitz
from ..nearest_displacement import fit_displacement
from ..nearest_kronecker import nearest_kronecker
from .baselines import BlockCirculantParametrisation, DenseParametrisation, LoRAParametrisation
from .contract import Parametrisation
from .parametrisations import (
    CirculantParametrisation,
    KroneckerParametrisation,
    LowDisplacementRankParametrisation,
    LSRParametrisation,
    SkewCirculantParametrisation,
    SymmetricToeplitzParametrisation,
    ToeplitzParametrisation,
)
from .update import StructuredUpdate

__all__ = ["from_delta", "load_delta", "load_deltas"]

POLISH = 100  # steps of L-BFGS that an LSR gets after its start


def from_delta(
    M: Any, structure: str | Parametrisation, *, alpha: float | None = None, seed: Any = 0, **options: Any
) -> tuple[StructuredUpdate, Fit]:
    """A StructuredUpdate near a given ΔW, and how near: (update, Fit).

    M: ΔW (out, in), a tensor, an array or a structured matrix. structure, alpha and options as for StructuredUpdate; its
    parameters have the dtype and the device of a tensor M, else float32. Fit.relative_error is ‖M − ΔW‖_F / ‖M‖_F
    of the parameters as they are stored; it is `optimal` for the structures with a closed nearest matrix.

    Computed in float64. Costs what the nearest matrix costs: one SVD for "lora" and "lsr" (and 100 steps of L-BFGS there),
    O(m n) for the FFT classes, alternating least squares for "ldr". Raises UnsupportedError for
    "kadaptation", whose factors are shared by layers, NonFiniteError, ShapeError.

    >>> import torch
    >>> from sepmat.nn import from_delta
    >>> delta = torch.outer(torch.arange(1.0, 7.0), torch.ones(4))  # of rank one
    >>> update, fit = from_delta(delta, "lora", rank=1)
    >>> fit.relative_error < 1e-6, fit.num_parameters
    (True, 10)
    """
    delta = _as_delta(M, "from_delta")
    dtype = M.dtype if isinstance(M, Tensor) and M.dtype.is_floating_point else torch.float32
    m, n = delta.shape
    update = StructuredUpdate(n, m, structure, alpha=alpha, device=delta.device, dtype=dtype, **options)
    return update, load_delta(update, delta, seed)


def load_delta(update: StructuredUpdate, M: Any, seed: Any = 0) -> Fit:
    """Sets the parameters of an update, in place, to those of the matrix of its structure nearest to M; see `from_delta`."""
    where = "load_delta"
    delta, p = _as_delta(M, where), update.parametrisation
    if tuple(delta.shape) != p.shape:
        raise ShapeError(where, "M", f"shape {tuple(delta.shape)}", f"{p.shape}, that of the update", "Transpose it")
    if not update.scale:
        raise ArgumentError(where, "update", "a scale of 0", "any other", "Make the update with alpha != 0")
    norm = torch.linalg.norm(delta)
    if not bool(norm):  # the start of any update, which can be trained: one factor is zero, and not all are
        draw = int(_check.as_generator(seed, where).integers(2**63))
        update.reset_parameters(torch.Generator(delta.device).manual_seed(draw))
        return Fit(update.matrix().map(torch.detach), 0.0, p.num_parameters, optimal=True)
    found, optimal = nearest_parameters(p, delta / update.scale, seed)
    with torch.no_grad():
        for name, value in found.items():
            getattr(update, name).copy_(value)
        error = torch.linalg.norm(delta - update.to_dense().to(delta)) / norm
    return Fit(update.matrix().map(torch.detach), float(error), p.num_parameters, optimal=optimal)


def load_deltas(
    model: nn.Module, deltas: Mapping[str, Any], adapter: str | None = None, seed: Any = 0
) -> dict[str, Fit]:
    """`load_delta` for every update in a model: of `sepmat.nn.adapt` or of a PEFT model.

    deltas: the name of a linear layer, as in the model before it was adapted → its ΔW, in the layout (out, in).
    adapter: where a PEFT model has several adapters, the one to set. Layers without a ΔW are left as they are.
    Returns the name of the layer → Fit. Raises ArgumentError where no update has a name given.
    """
    where, fits, seen = "load_deltas", {}, []
    for path, module in model.named_modules():
        if isinstance(module, StructuredUpdate) and (adapter is None or path.rpartition(".")[2] == adapter):
            seen.append(path)
            near = [name for name in deltas if f".{name}." in f".{path}"]
            if near:
                name = max(near, key=len)
                fits[name] = load_delta(module, deltas[name], seed)
    if missing := sorted(set(deltas) - set(fits)):
        expected = f"layers with an update: {', '.join(seen) or 'there are none'}"
        raise ArgumentError(where, "deltas", f"no update for {', '.join(missing)}", expected, "Check the names")
    return fits


def _as_delta(M: Any, where: str) -> Tensor:
    """ΔW as a float64 tensor without a gradient."""
    if isinstance(M, StructuredMatrix):
        M = M.to_dense()
    delta = M.detach() if isinstance(M, Tensor) else torch.from_numpy(_check.as_array(M, where, "M", 2))
    if delta.ndim != 2 or 0 in delta.shape:
        raise ShapeError(where, "M", f"shape {tuple(delta.shape)}", "a matrix (out, in)", "Pass the ΔW of one layer")
    return _check.check_finite(delta.to(torch.float64), where, "M")


# one rule for each structure ----------------------------------------------------------------------------------------------

Found = tuple[Mapping[str, Tensor], bool]


@functools.singledispatch
def nearest_parameters(p: Parametrisation, M: Tensor, seed: Any = 0) -> Found:
    """(parameters, whether they are proven to be the best) of the matrix p(parameters) nearest to M, float64."""
    advice = 'Use "lora" or "lsr", which have the same rank, or train it'
    raise UnsupportedError("from_delta", "structure", repr(p.name), "one with a nearest matrix", advice)


def _as_product(p: CirculantParametrisation, c: Tensor) -> Mapping[str, Tensor]:
    """c, or a and b of the same size with c = a ∘ b."""
    if p.factors == 1:
        return {"c": c}
    root = torch.sqrt(torch.abs(c))
    return {"a": root, "b": torch.sign(c) * root}


@nearest_parameters.register
def _(p: CirculantParametrisation, M: Tensor, seed: Any = 0) -> Found:
    return _as_product(p, nearest_circulant(M).matrix.c), True  # type: ignore[attr-defined]


@nearest_parameters.register
def _(p: SkewCirculantParametrisation, M: Tensor, seed: Any = 0) -> Found:
    return _as_product(p, nearest_skew_circulant(M).matrix.c), True  # type: ignore[attr-defined]


def _unit(like: Tensor, n: int) -> Tensor:
    """The first column of the identity."""
    e = torch.zeros(n, dtype=like.dtype, device=like.device)
    e[:1] = 1
    return e


@nearest_parameters.register
def _(p: SymmetricToeplitzParametrisation, M: Tensor, seed: Any = 0) -> Found:
    """factors=2: T(b) T(a) with T(a) the identity, which is one start of many."""
    T: Any = nearest_toeplitz(M, symmetric=True).matrix
    c = T.c if M.shape[0] >= M.shape[1] else T.r
    return ({"c": c}, True) if p.factors == 1 else ({"b": c, "a": _unit(c, len(c))}, False)


@nearest_parameters.register
def _(p: ToeplitzParametrisation, M: Tensor, seed: Any = 0) -> Found:
    T: Any = nearest_toeplitz(M).matrix
    if p.factors == 1:
        return {"c": T.c, "r": T.r[1:]}, True
    shapes = p.parameter_shapes()
    row = torch.zeros(shapes["b_r"], dtype=M.dtype, device=M.device)
    row[: M.shape[1] - 1] = T.r[1:]
    a = _unit(M, *shapes["a_c"])
    return {"b_c": T.c, "b_r": row, "a_c": a, "a_r": torch.zeros_like(M[0, 1:])}, False


@nearest_parameters.register
def _(p: LowDisplacementRankParametrisation, M: Tensor, seed: Any = 0) -> Found:
    W: Any = fit_displacement(M, p.rank, seed, "from_delta").matrix
    return {"G": W.g, "H": W.h}, False


@nearest_parameters.register
def _(p: BlockCirculantParametrisation, M: Tensor, seed: Any = 0) -> Found:
    """The nearest circulant of each block."""
    P, Q, b = p.parameter_shapes()["c"]
    blocks = M.reshape(P, b, Q, b).transpose(1, 2)
    c = [nearest_circulant(block).matrix.c for block in blocks.reshape(P * Q, b, b)]  # type: ignore[attr-defined]
    return {"c": torch.stack(c).reshape(P, Q, b)}, True


def _terms(M: Tensor, shapes: Any, terms: int, seed: Any) -> tuple[Tensor, Tensor, bool]:
    """(A1, A2, optimal) of the nearest Σ_l A1[l] ⊗ A2[l], the scales shared evenly."""
    (a, b), (c, d) = shapes
    fit = nearest_kronecker(M, shapes, rank=min(terms, a * b, c * d), seed=seed)
    W: Any = fit.matrix
    A1, A2 = (F if F.ndim == 3 else F[None] for F in (_dense(F) for F in W.factors))
    scales = getattr(W, "scales", None)
    if scales is not None:
        A1, A2 = (F * torch.sqrt(torch.abs(scales))[:, None, None] for F in (A1, A2))
        A1 = A1 * torch.sign(scales)[:, None, None]
    A1, A2 = _padded(A1, A2, terms, seed)
    return A1, A2, fit.optimal


def _dense(F: Any) -> Tensor:
    return F.to_dense() if isinstance(F, StructuredMatrix) else F


def _padded(zero: Tensor, random: Tensor, count: int, seed: Any) -> tuple[Tensor, Tensor]:
    """Up to `count` terms along the first axis: zeros in one factor and not in the other, so that they can be trained."""
    missing = count - zero.shape[0]
    if not missing:
        return zero, random
    size = torch.sqrt(torch.mean(random**2)) if random.numel() else 1.0
    draws = _check.as_generator(seed, "from_delta").standard_normal((missing, *random.shape[1:]))
    more = size * torch.from_numpy(draws).to(random)
    return torch.cat((zero, zero.new_zeros((missing, *zero.shape[1:])))), torch.cat((random, more))


@nearest_parameters.register
def _(p: KroneckerParametrisation, M: Tensor, seed: Any = 0) -> Found:
    A1, A2, optimal = _terms(M, p._pairs(), p.terms, seed)
    return {"A1": A1, "A2": A2}, optimal


@nearest_parameters.register
def _(p: LoRAParametrisation, M: Tensor, seed: Any = 0) -> Found:
    U, V = _low_rank(M, p.rank, seed)
    return {"B": U, "A": V.mT}, True


def _low_rank(M: Tensor, rank: int, seed: Any) -> tuple[Tensor, Tensor]:
    """U Vᵀ nearest to M, of exactly so many columns."""
    W: Any = nearest_low_rank(M, rank=min(rank, *M.shape)).matrix
    U, V = _padded(W.U.mT, W.V.mT, rank, seed)
    return U.mT, V.mT


@nearest_parameters.register
def _(p: LSRParametrisation, M: Tensor, seed: Any = 0) -> Found:
    """The thin factors of the SVD, each in its nearest sum of Kronecker products, then both together by L-BFGS.

    The columns of U may be mixed by any invertible matrix, and those of V by its inverse, so the two are not fitted apart:
    for a random 768×768 matrix of rank 4 and 16 terms the polish takes the error from 0.734 to 0.715.
    """
    U, V = _low_rank(M, p.rank, seed)
    shapes = p.parameter_shapes()
    A1, A2, _ = _terms(U, (shapes["A1"][1:], shapes["A2"][1:]), p.terms, seed)
    B1, B2, _ = _terms(V.mT, (shapes["B1"][1:], shapes["B2"][1:]), p.terms, seed)
    return _polished(p, M, {"A1": A1, "A2": A2, "B1": B1, "B2": B2}), False


def _polished(p: LSRParametrisation, M: Tensor, start: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Fewer ‖M − L Rᵀ‖² = ‖M‖² − 2 ⟨Mᵀ L, R⟩ + ⟨LᵀL, RᵀR⟩, whose gradient costs two thin products with M."""
    norm = torch.linalg.norm(M)
    scale = torch.sqrt(torch.sqrt(norm))
    found = {name: (value / scale).contiguous().requires_grad_() for name, value in start.items()}
    unit = M / norm
    optimiser = torch.optim.LBFGS(found.values(), max_iter=POLISH, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        W: Any = p.matrix(found)
        value = 1 - 2 * torch.sum((unit.mT @ W.U) * W.V) + torch.sum((W.U.mT @ W.U) * (W.V.mT @ W.V))
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return {name: value.detach() * scale for name, value in found.items()}


@nearest_parameters.register
def _(p: DenseParametrisation, M: Tensor, seed: Any = 0) -> Found:
    return {"W": M}, True
