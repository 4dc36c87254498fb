"""What the nearest matrices of the structures are made of: terms, low rank, and their polish."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _check
from ..matrix import StructuredMatrix
from ..nearest import nearest_low_rank
from ..nearest_kronecker import nearest_kronecker

POLISH = 100  # steps of L-BFGS that an LSR gets after its start


def first_unit(like: Tensor, n: int) -> Tensor:
    """The first column of the identity."""
    e = torch.zeros(n, dtype=like.dtype, device=like.device)
    e[:1] = 1
    return e


def terms(M: Tensor, shapes: Any, terms: int, seed: Any) -> tuple[Tensor, Tensor, bool]:
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


def low_rank(M: Tensor, rank: int, seed: Any) -> tuple[Tensor, Tensor]:
    """U Vᵀ nearest to M, of exactly so many columns."""
    W: Any = nearest_low_rank(M, rank=min(rank, *M.shape)).matrix
    U, V = _padded(W.U.mT, W.V.mT, rank, seed)
    return U.mT, V.mT


def _padded(zero: Tensor, random: Tensor, count: int, seed: Any) -> tuple[Tensor, Tensor]:
    """Up to `count` terms along the first axis: zeros in one factor and not in the other, so that they can be trained."""
    missing = count - zero.shape[0]
    if not missing:
        return zero, random
    size = torch.sqrt(torch.mean(random**2)) if random.numel() else 1.0
    draws = _check.as_generator(seed, "from_delta").standard_normal((missing, *random.shape[1:]))
    more = size * torch.from_numpy(draws).to(random)
    return torch.cat((zero, zero.new_zeros((missing, *zero.shape[1:])))), torch.cat((random, more))


def polished(
    matrix: Callable[[Mapping[str, Tensor]], Any], M: Tensor, start: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Parameters of a low-rank matrix with fewer ‖M − L Rᵀ‖² = ‖M‖² − 2 ⟨Mᵀ L, R⟩ + ⟨LᵀL, RᵀR⟩, whose gradient costs two thin products with M."""
    norm = torch.linalg.norm(M)
    scale = torch.sqrt(torch.sqrt(norm))
    found = {name: (value / scale).contiguous().requires_grad_() for name, value in start.items()}
    unit = M / norm
    optimiser = torch.optim.LBFGS(found.values(), max_iter=POLISH, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        W = matrix(found)
        value = 1 - 2 * torch.sum((unit.mT @ W.U) * W.V) + torch.sum((W.U.mT @ W.U) * (W.V.mT @ W.V))
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    return {name: value.detach() * scale for name, value in found.items()}
