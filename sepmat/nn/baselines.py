"""What the structures are compared with, in the same frame: LoRA, KAdaptation, block circulants, and W itself.

KronA is a Kronecker product and stands with them in `parametrisations`.
"""

import dataclasses
import math
from typing import Any, Self

import torch
from torch import Tensor

from .. import _check
from ..basic import Dense
from ..kernels.terms import khatri_rao
from ..low_rank import LowRank
from ..matrix import StructuredMatrix
from ..nearest import nearest_circulant
from ..toeplitz import Circulant
from .block_circulant import BlockCirculant
from .contract import Found, Parameters, Parametrisation, divisor
from .nearest import low_rank


@dataclasses.dataclass(frozen=True)
class LoRAParametrisation(Parametrisation):
    """LoRA (Hu et al. 2021): W = B A, A: (rank, in), B: (out, rank), zero at the start; alpha means alpha / rank."""

    rank: int = 8
    name = peft = "lora"
    moved = ("B",)
    advised = True
    ranked = "low_rank"

    def _check(self) -> None:
        self._set(rank=_check.as_integer(self.rank, self.name, "rank", 1))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        m, n = self.shape
        return {"A": (self.rank, n), "B": (m, self.rank)}

    def variances(self, gain: float | None) -> dict[str, float]:
        n = self.shape[1]
        return {"A": 1 / (3 * n), "B": 0.0} if gain is None else {"A": 1 / n, "B": gain / self.rank}

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        return LowRank._of(U=parameters["B"], V=parameters["A"].mT)

    def scale(self, alpha: float | None) -> float:
        return 1.0 if alpha is None else float(alpha) / self.rank

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        U, V = low_rank(M, self.rank, seed)
        return {"B": U, "A": V.mT}, True

    @classmethod
    def of(cls, A: StructuredMatrix) -> Self | None:
        return cls(A.shape, rank=A.U.shape[1]) if isinstance(A, LowRank) else None


@dataclasses.dataclass(frozen=True)
class KAdaptationParametrisation(Parametrisation):
    """KAdaptation (He et al. 2023): W = Σ_i (u1_i v1_iᵀ) ⊗ (u2_i v2_iᵀ), i < terms; u1 and v1 are shared by layers.

    u1, v1: (t, t), t = terms, u2: (t, out/t), zero at the start, v2: (t, in/t). W has rank <= t, and multiplies as such:
    Σ_i (u1_i ⊗ u2_i) (v1_i ⊗ v2_i)ᵀ. The published code sets u2 and v2 to zero, so that neither ever gets a gradient;
    here exactly one is. terms: a divisor of both sizes.
    """

    terms: int = 32
    name = "kadaptation"
    moved = ("u2",)
    shared = ("u1", "v1")

    def _check(self) -> None:
        self._set(terms=divisor(self.terms, self.shape, self.name, "terms"))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        (m, n), t = self.shape, self.terms
        return {"u1": (t, t), "v1": (t, t), "u2": (t, m // t), "v2": (t, n // t)}

    def variances(self, gain: float | None) -> dict[str, float]:
        n = self.shape[1]
        fast = {"u2": 0.0, "v2": 1 / (3 * n)} if gain is None else {"u2": gain / self.terms, "v2": 1 / n}
        return {"u1": 1.0, "v1": 1.0, **fast}

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        p = parameters
        return LowRank._of(U=khatri_rao(p["u1"].mT, p["u2"].mT), V=khatri_rao(p["v1"].mT, p["v2"].mT))


@dataclasses.dataclass(frozen=True)
class BlockCirculantParametrisation(Parametrisation):
    """C3A (Chen et al. 2024), started at zero: blocks of circulants of size `block`, a divisor of both sizes.

    c: (out/block, in/block, block), in · out / block numbers; by default the largest block there is.
    """

    block: int | None = None
    name = "block_circulant"
    moved = ("c",)
    transforms = True

    def _check(self) -> None:
        block = math.gcd(*self.shape) if self.block is None else divisor(self.block, self.shape, self.name, "block")
        self._set(block=block)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        (m, n), b = self.shape, self.block or 1
        return {"c": (m // b, n // b, b)}

    def variances(self, gain: float | None) -> dict[str, float]:
        return {"c": 0.0 if gain is None else gain / self.shape[1]}

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        c = parameters["c"]
        return Circulant._of(c=c[0, 0], corner=self.shape) if c.shape[:2] == (1, 1) else BlockCirculant._of(c=c)

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        """The nearest circulant of each block."""
        P, Q, b = self.parameter_shapes()["c"]
        blocks = M.reshape(P, b, Q, b).transpose(1, 2)
        c = [nearest_circulant(block).matrix.c for block in blocks.reshape(P * Q, b, b)]  # type: ignore[attr-defined]
        return {"c": torch.stack(c).reshape(P, Q, b)}, True


class DenseParametrisation(Parametrisation):
    """W itself, out in parameters: full fine-tuning in the same frame."""

    name = "dense"
    moved = ("W",)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"W": self.shape}

    def variances(self, gain: float | None) -> dict[str, float]:
        return {"W": 0.0 if gain is None else gain / self.shape[1]}

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        return Dense._of(array=parameters["W"])

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        return {"W": M}, True
