"""Trainable structures that are a few vectors: circulant and Toeplitz matrices, low displacement rank."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from .. import _check
from ..displacement import LowDisplacementRank
from ..matrix import Product, StructuredMatrix
from ..nearest import nearest_circulant, nearest_skew_circulant, nearest_toeplitz
from ..nearest_displacement import fit_displacement
from ..toeplitz import Circulant, SkewCirculant, Toeplitz
from .contract import Found, Parameters, Parametrisation, added, not_closed
from .nearest import first_unit


@dataclasses.dataclass(frozen=True)
class _OfVectors(Parametrisation):
    """One matrix of a class, or two as SURM has them (Sehanobish et al. 2024): a is random at the start, b = 0."""

    factors: int = 1
    transforms = True
    advised = True
    peft = "surm"

    def _check(self) -> None:
        self._set(factors=_check.as_integer(self.factors, self.name, "factors", 1, 2))

    @property
    def moved(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for name in self.parameter_shapes() if not name.startswith("a"))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """N = max(out, in) numbers, or twice as many."""
        return dict.fromkeys(("c",) if self.factors == 1 else ("a", "b"), (max(self.shape),))

    def variances(self, gain: float | None) -> dict[str, float]:
        inner = self._inner
        if self.factors == 1:
            entry = 0.0 if gain is None else gain / self.shape[1]
            return dict.fromkeys(self.parameter_shapes(), entry)
        a = self._reference / inner if gain is None else math.sqrt(gain / (self.shape[1] * inner))
        b = 0.0 if gain is None else a
        return {name: a if name.startswith("a") else b for name in self.parameter_shapes()}

    @property
    def _inner(self) -> int:
        """How many products of entries of a and b an entry of ΔW is the sum of."""
        return 1


class CirculantParametrisation(_OfVectors):
    """W[i, j] = c[(i - j) mod N], the top-left corner of N×N, N = max(out, in); factors=2: c = a ∘ b (SURM)."""

    name = ranked = "circulant"
    _class: ClassVar[type[Circulant | SkewCirculant]] = Circulant

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        c = parameters["c"] if self.factors == 1 else parameters["a"] * parameters["b"]
        return self._class._of(c=c, corner=self.shape)

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        """c, or a and b of the same size with c = a ∘ b."""
        c: Tensor = _NEAREST[self._class](M).matrix.c  # type: ignore[attr-defined]
        root = torch.sqrt(torch.abs(c))
        return ({"c": c} if self.factors == 1 else {"a": root, "b": torch.sign(c) * root}), True

    @classmethod
    def of(cls, A: StructuredMatrix) -> Self | None:
        return cls(A.shape) if isinstance(A, cls._class) else None

    @classmethod
    def summed(cls, parts: Sequence[Self], parameters: Sequence[Parameters]) -> tuple[dict[str, Any], Parameters]:
        c = [p["c"] if "c" in p else p["a"] * p["b"] for p in parameters]
        return {"factors": 1}, {"c": sum(c[1:], c[0])}


_NEAREST = {Circulant: nearest_circulant, SkewCirculant: nearest_skew_circulant}


class SkewCirculantParametrisation(CirculantParametrisation):
    """W[i, j] = c[i - j], and -c[N + i - j] above the diagonal; the corner of N×N; factors=2: c = a ∘ b."""

    name = ranked = "skew_circulant"
    _class = SkewCirculant


class _OfToeplitz(_OfVectors):
    """T, or the product of two, out×N times N×in, N = max(out, in)."""

    @property
    def _inner(self) -> int:
        return max(self.shape)

    @classmethod
    def summed(cls, parts: Sequence[Self], parameters: Sequence[Parameters]) -> tuple[dict[str, Any], Parameters]:
        if any(p.factors != 1 for p in parts):
            raise not_closed("a sum of products of two Toeplitz matrices is not one such product (factors=2)")
        return {}, added(parameters)


class SymmetricToeplitzParametrisation(_OfToeplitz):
    """W[i, j] = c[|i - j|], c: (max(out, in),); factors=2: T(b) T(a), out×N times N×in, N = max(out, in) (SURM)."""

    name = "symmetric_toeplitz"
    ranked = "toeplitz"

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        (m, n), N = self.shape, max(self.shape)
        if self.factors == 1:
            return _symmetric(parameters["c"], m, n)
        return Product._of(factors=(_symmetric(parameters["b"], m, N), _symmetric(parameters["a"], N, n)))

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        """factors=2: T(b) T(a) with T(a) the identity, which is one start of many."""
        T: Any = nearest_toeplitz(M, symmetric=True).matrix
        c = T.c if M.shape[0] >= M.shape[1] else T.r
        return ({"c": c}, True) if self.factors == 1 else ({"b": c, "a": first_unit(c, len(c))}, False)

    @classmethod
    def of(cls, A: StructuredMatrix) -> Self | None:
        return cls(A.shape) if isinstance(A, Toeplitz) and A.tail is None else None


def _symmetric(c: Tensor, m: int, n: int) -> Toeplitz:
    return Toeplitz._of(c=c[:m], tail=c[1:n])


class ToeplitzParametrisation(_OfToeplitz):
    """W[i, j] = c[i - j] on and below the diagonal, r[j - i - 1] above it: the row is stored without the corner entry.

    c: (out,), r: (in - 1,). factors=2: T(b_c, b_r) T(a_c, a_r), out×N times N×in, N = max(out, in).
    """

    name = ranked = "toeplitz"

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        (m, n), N = self.shape, max(self.shape)
        if self.factors == 1:
            return {"c": (m,), "r": (n - 1,)}
        return {"a_c": (N,), "a_r": (n - 1,), "b_c": (m,), "b_r": (N - 1,)}

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        p = parameters
        if self.factors == 1:
            return Toeplitz._of(c=p["c"], tail=p["r"])
        return Product._of(factors=(Toeplitz._of(c=p["b_c"], tail=p["b_r"]), Toeplitz._of(c=p["a_c"], tail=p["a_r"])))

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        """factors=2: T(b) T(a) with T(a) the identity."""
        T: Any = nearest_toeplitz(M).matrix
        if self.factors == 1:
            return {"c": T.c, "r": T.r[1:]}, True
        shapes = self.parameter_shapes()
        row = torch.zeros(shapes["b_r"], dtype=M.dtype, device=M.device)
        row[: M.shape[1] - 1] = T.r[1:]
        a = first_unit(M, *shapes["a_c"])
        return {"b_c": T.c, "b_r": row, "a_c": a, "a_r": torch.zeros_like(M[0, 1:])}, False

    @classmethod
    def of(cls, A: StructuredMatrix) -> Self | None:
        return cls(A.shape) if isinstance(A, Toeplitz) and A.tail is not None else None


@dataclasses.dataclass(frozen=True)
class LowDisplacementRankParametrisation(Parametrisation):
    """W = Σ_k Z_1(G[:, k]) Z_{-1}(H[:, k]), k < rank: circulants times skew-circulants; the corner of N×N.

    G, H: (N, rank), N = max(out, in). G starts at zero. Every matrix of displacement rank <= rank is one.
    """

    rank: int = 1
    name = "ldr"
    moved = ("G",)
    transforms = True
    advised = True
    ranked = "displacement"
    peft = "surm"

    def _check(self) -> None:
        self._set(rank=_check.as_integer(self.rank, self.name, "rank", 1, max(self.shape)))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(("G", "H"), (max(self.shape), self.rank))

    def variances(self, gain: float | None) -> dict[str, float]:
        inner = max(self.shape) * self.rank
        if gain is None:
            return {"G": 0.0, "H": self._reference / inner}
        return dict.fromkeys(("G", "H"), math.sqrt(gain / (self.shape[1] * inner)))

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        return LowDisplacementRank._of(g=parameters["G"], h=parameters["H"], corner=self.shape, transposed=False)

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        W: Any = fit_displacement(M, self.rank, seed, "from_delta").matrix
        return {"G": W.g, "H": W.h}, False

    @classmethod
    def of(cls, A: StructuredMatrix) -> Self | None:
        return cls(A.shape, rank=A.g.shape[1]) if isinstance(A, LowDisplacementRank) else None

    @classmethod
    def summed(cls, parts: Sequence[Self], parameters: Sequence[Parameters]) -> tuple[dict[str, Any], Parameters]:
        """Generators stand side by side."""
        tensors = {name: torch.cat([p[name] for p in parameters], 1) for name in ("G", "H")}
        rank, most = tensors["G"].shape[1], max(parts[0].shape)
        if rank > most:
            raise not_closed(f"the sum has {rank} columns of generators, and {most} is the most")
        return {"rank": rank}, tensors
