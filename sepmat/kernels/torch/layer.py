"""Direct Kronecker layers on tensors of a GPU: the route of a product, and the one that forms the matrix.

Plain operators of torch, so that autograd, torch.compile and torch.func need to be told nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import _array
from ..cuda import layer
from . import device


def route(factors: Sequence[Tensor], x: Tensor, axis: int) -> str:
    """What a product on a GPU is computed by: "formed" or "device", the names of rows, or "" for what stands after them.

    For two factors on rows of x what is expected to be fastest. It depends on sizes, on the dtype and on whether gradients are asked
    for; under torch.compile on a fixed number of rows, so that one graph serves all.
    """
    ours = x.dtype in device.DTYPES and _array.takes_operators(x, *factors)
    if len(factors) != 2 or axis != -1:
        return "device" if ours else ""
    first, last = factors
    terms = first.shape[0] if first.ndim == 3 else 1
    rows = layer.ROWS if torch.compiler.is_compiling() else x.numel() // max(1, x.shape[-1])
    trains = torch.is_grad_enabled() and (first.requires_grad or last.requires_grad)
    fastest = _fastest((*first.shape[-2:], *last.shape[-2:]), terms, rows, str(x.dtype).removeprefix("torch."), trains)
    return {"formed": "formed", "fused": "device" if ours else "", "chain": ""}[fastest]


@torch.compiler.assume_constant_result
def _fastest(sides: Sequence[int], terms: int, rows: int, dtype: str, trains: bool) -> str:
    m1, n1, m2, n2 = map(int, sides)
    return layer.routes(((m1, n1), (m2, n2)), terms, rows, dtype, trains)[0].name


def formed(first: Tensor, last: Tensor, x: Tensor) -> Tensor:
    """x (Σ_l first[l] ⊗ last[l])ᵀ by the matrix itself: the terms in one GEMM, its result moved into place, and one GEMM on x.

    first (terms, m_1, n_1), last (terms, m_2, n_2), or both without the terms. Entries of the matrix have one rounding of a
    sum in higher precision in half precision, as those of GEMMs have.
    """
    (m1, n1), (m2, n2) = first.shape[-2:], last.shape[-2:]
    outer = first.reshape(-1, m1 * n1).mT @ last.reshape(-1, m2 * n2)
    W = outer.reshape(m1, n1, m2, n2).permute(0, 2, 1, 3).reshape(m1 * m2, n1 * n2)
    return torch.nn.functional.linear(x, W)
