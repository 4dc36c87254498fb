"""Trainable structures by name: those of a few vectors, Kronecker products and LSR, and what they are compared with.

One small frozen class for each structure, looked up in PARAMETRISATIONS; a new one is one class and one entry. The
contract, and how the parameters start, is in `contract`.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import _check
from ..errors import ArgumentError, warn
from ..kronecker import Kronecker
from ..low_rank import LowRank
from ..matrix import StructuredMatrix
from ..rearranged import kron_sum
from ..separated import Separated
from .baselines import (
    BlockCirculantParametrisation,
    DenseParametrisation,
    KAdaptationParametrisation,
    LoRAParametrisation,
)
from .contract import Found, Pair, Parameters, Parametrisation, as_two_shapes, divisor, not_closed, split
from .nearest import low_rank, polished, terms
from .vectors import (
    CirculantParametrisation,
    LowDisplacementRankParametrisation,
    SkewCirculantParametrisation,
    SymmetricToeplitzParametrisation,
    ToeplitzParametrisation,
)

INNER_RANKS = (4, 8, 16)  # of LSR, that `advise` tries

# Kronecker products -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class KroneckerParametrisation(Parametrisation):
    """W = Σ_l A1[l] ⊗ A2[l], l < terms. A1: (terms, o1, i1), zero at the start, A2: (terms, o2, i2); o1 o2 = out, i1 i2 = in.

    shapes: ((o1, i1), (o2, i2)); by default both sizes are split as evenly as possible: (32×32) ⊗ (24×24) for 768². rank r
    in their place: (out/r × r) ⊗ (r × in/r) as in SURM (Sehanobish et al. 2024), in + out parameters for any r; r = 1
    is LoRA of rank 1. Prime sizes have no even split: 67×97 alone would be (67×97) ⊗ (1×1), which warns.
    """

    shapes: tuple[Pair, Pair] | None = None
    rank: int | None = None
    terms: int = 1
    name = "kronecker"
    moved = ("A1",)
    advised = True
    ranked = "kronecker"
    peft: ClassVar[str | None] = "surm"

    def _check(self) -> None:
        (m, n), shapes = self.shape, self.shapes
        if shapes is not None and self.rank is not None:
            _check.one_of(self.name, shapes=shapes, rank=self.rank)
        if self.rank is not None:
            r = divisor(self.rank, self.shape, self.name, "rank")
            shapes = ((m // r, r), (r, n // r))
        (a, b), (c, d) = as_two_shapes(self._default() if shapes is None else shapes, self.shape, self.name)
        if shapes is None and c == d == 1 < min(m, n):
            missing = f"sizes without divisors leave ({m}×{n}) ⊗ (1×1), as many parameters as the dense matrix"
            warn(UserWarning, f"{self.name}: shapes: {missing}; pass rank= or shapes=, or leave the layer out")
        self._set(shapes=((a, b), (c, d)), rank=None, terms=_check.as_integer(self.terms, self.name, "terms", 1))

    def _default(self) -> tuple[Pair, Pair]:
        (o1, o2), (i1, i2) = map(split, self.shape)
        return ((o1, i1), (o2, i2))

    def _pairs(self) -> tuple[Pair, Pair]:
        return self.shapes or self._default()

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"A{k}": (self.terms, *pair) for k, pair in enumerate(self._pairs(), 1)}

    def variances(self, gain: float | None) -> dict[str, float]:
        (_, i1), (_, i2) = self._pairs()
        if gain is None:
            return {"A1": 0.0, "A2": 1 / (3 * i2 * self.terms)}
        even = math.sqrt(gain / self.terms)
        return {"A1": even / i1, "A2": even / i2}

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        A1, A2 = parameters["A1"], parameters["A2"]
        return (
            Kronecker._of(factors=(A1[0], A2[0])) if self.terms == 1 else Separated._of(factors=(A1, A2), scales=None)
        )

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        A1, A2, optimal = terms(M, self._pairs(), self.terms, seed)
        return {"A1": A1, "A2": A2}, optimal

    @classmethod
    def of(cls, A: StructuredMatrix) -> Self | None:
        if isinstance(A, Kronecker):
            return cls(A.shape, shapes=tuple(F.shape for F in A.factors))
        if isinstance(A, Separated):
            return cls(A.shape, shapes=tuple(F.shape[1:] for F in A.factors), terms=A.terms)
        return None

    @classmethod
    def summed(cls, parts: Sequence[Self], parameters: Sequence[Parameters]) -> tuple[dict[str, Any], Parameters]:
        """Terms stand side by side."""
        _same_shapes(parts)
        tensors = {name: torch.cat([p[name] for p in parameters]) for name in ("A1", "A2")}
        return {"terms": tensors["A1"].shape[0]}, tensors


class KronAParametrisation(KroneckerParametrisation):
    """KronA (Edalati et al. 2022): W = A1 ⊗ A2 of the most even sizes with the fewest parameters, 32×24 ⊗ 24×32 for 768²."""

    name = "krona"
    advised = False  # "kronecker" tries all shapes
    peft = None

    def _default(self) -> tuple[Pair, Pair]:
        (o1, o2), (i2, i1) = map(split, self.shape)
        return ((o1, i1), (o2, i2))


@dataclasses.dataclass(frozen=True)
class LSRParametrisation(Parametrisation):
    """LSR-Adapt (Li & Sarwate 2025, eq. 13): W = (Σ_k A1[k] ⊗ A2[k]) (Σ_k B1[k] ⊗ B2[k]), k < terms.

    rank: the inner rank K, a bound on the rank of W (4); terms: the separation terms s of each factor (16). With
    K = k1 k2 split as evenly as possible, A1: (s, o1, k1), zero at the start, A2: (s, o2, k2), B1: (s, k1, i1),
    B2: (s, k2, i2). shapes: ((o1, i1), (o2, i2)), by default both sizes split evenly, 32·24 for 768. Both thin factors are formed once,
    one GEMM each, and then multiply as LoRA's. K is the rank that LoRA would have; the code of the paper calls its square
    root the rank.
    """

    rank: int = 4
    terms: int = 16
    shapes: tuple[Pair, Pair] | None = None
    name = peft = "lsr"
    moved = ("A1",)
    advised = True

    def _check(self) -> None:
        rank = _check.as_integer(self.rank, self.name, "rank", 1)
        shapes = self._pairs() if self.shapes is None else as_two_shapes(self.shapes, self.shape, self.name)
        self._set(rank=rank, terms=_check.as_integer(self.terms, self.name, "terms", 1), shapes=shapes)

    def _pairs(self) -> tuple[Pair, Pair]:
        if self.shapes is not None:
            return self.shapes
        (o1, o2), (i1, i2) = map(split, self.shape)
        return ((o1, i1), (o2, i2))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        ((o1, i1), (o2, i2)), (k1, k2), s = self._pairs(), split(self.rank), self.terms
        return {"A1": (s, o1, k1), "A2": (s, o2, k2), "B1": (s, k1, i1), "B2": (s, k2, i2)}

    def variances(self, gain: float | None) -> dict[str, float]:
        s, n = self.terms, self.shape[1]
        if gain is None:
            B = 1 / math.sqrt(3 * n * s)
            return {"A1": 0.0, "A2": 1 / s, "B1": B, "B2": B}
        A, B = math.sqrt(gain / (self.rank * s)), 1 / math.sqrt(n * s)
        return {"A1": A, "A2": A, "B1": B, "B2": B}

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        p = parameters
        L, R = kron_sum(p["A1"], p["A2"]), kron_sum(p["B1"].mT, p["B2"].mT)
        return LowRank._of(U=L, V=R)

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        """The thin factors of the SVD, each in its nearest sum of Kronecker products, then both together by L-BFGS.

        The columns of U may be mixed by any invertible matrix, and those of V by its inverse, so the two are not fitted apart:
        for a random 768×768 matrix of rank 4 and 16 terms the polish takes the error from 0.734 to 0.715.
        """
        U, V = low_rank(M, self.rank, seed)
        shapes = self.parameter_shapes()
        A1, A2, _ = terms(U, (shapes["A1"][1:], shapes["A2"][1:]), self.terms, seed)
        B1, B2, _ = terms(V.mT, (shapes["B1"][1:], shapes["B2"][1:]), self.terms, seed)
        return polished(self.matrix, M, {"A1": A1, "A2": A2, "B1": B1, "B2": B2}), False

    @classmethod
    def trials(cls, shape: Pair, budget: int) -> Iterator[Self]:
        """A few inner ranks with as many terms as fit."""
        for rank in INNER_RANKS:
            term = cls(shape, rank=rank, terms=1).num_parameters
            if rank <= min(shape) and budget >= term:
                yield cls(shape, rank=rank, terms=budget // term)

    @classmethod
    def summed(cls, parts: Sequence[Self], parameters: Sequence[Parameters]) -> tuple[dict[str, Any], Parameters]:
        """[L1 L2] [R1; R2] with the thin factors side by side: one of the two inner sizes adds up, the terms do."""
        _same_shapes(parts)
        inner = {k: [p[f"A{k}"].shape[2] for p in parameters] for k in (1, 2)}
        rank = sum(a * b for a, b in zip(inner[1], inner[2], strict=True))
        for k, other in ((1, 2), (2, 1)):
            sizes = {k: sum(inner[k]), other: inner[other][0]}
            if len(set(inner[other])) == 1 and (sizes[1], sizes[2]) == split(rank):
                break
        else:
            pairs = ", ".join(f"{a}×{b}" for a, b in zip(inner[1], inner[2], strict=True))
            a, b = split(rank)
            raise not_closed(f"inner ranks {pairs} do not stand side by side in the {a}×{b} of an inner rank {rank}")
        placed: dict[str, list[Tensor]] = {name: [] for name in parameters[0]}
        before = 0
        for p, size in zip(parameters, inner[k], strict=True):
            after = sizes[k] - before - size
            p = {**p, f"A{k}": pad(p[f"A{k}"], (before, after)), f"B{k}": pad(p[f"B{k}"], (0, 0, before, after))}
            before += size
            for name, tensor in p.items():
                placed[name].append(tensor)
        tensors = {name: torch.cat(parts) for name, parts in placed.items()}
        return {"rank": rank, "terms": tensors["A1"].shape[0]}, tensors

    def separated(self, parameters: Parameters) -> tuple[Separated, Separated]:
        """The two factors as sums of Kronecker products, out×K and K×in: for their κ, not for products."""
        p = parameters
        A, B = (Separated._of(factors=(p[f"{X}1"], p[f"{X}2"]), scales=None) for X in "AB")
        return A, B


def _same_shapes(parts: Sequence[Parametrisation]) -> None:
    shapes = {p.options["shapes"] for p in parts}
    if len(shapes) > 1:
        raise not_closed(
            f"Kronecker factors of different shapes, {' and '.join(map(str, shapes))}, are no terms of one sum"
        )


# by name ------------------------------------------------------------------------------------------------------------------

PARAMETRISATIONS: dict[str, type[Parametrisation]] = {
    cls.name: cls
    for cls in (
        CirculantParametrisation,
        SkewCirculantParametrisation,
        ToeplitzParametrisation,
        SymmetricToeplitzParametrisation,
        KroneckerParametrisation,
        LowDisplacementRankParametrisation,
        LSRParametrisation,
        LoRAParametrisation,
        KronAParametrisation,
        KAdaptationParametrisation,
        BlockCirculantParametrisation,
        DenseParametrisation,
    )
}


def parametrisation(structure: str | Parametrisation, shape: Pair, **options: Any) -> Parametrisation:
    """The parametrisation of that name (one of PARAMETRISATIONS) for matrices of the shape (out, in).

    Raises ArgumentError for a name or an option that is not known, naming those that are, and for impossible values.

    >>> parametrisation("circulant", (768, 768), factors=2).num_parameters
    1536
    """
    where = "parametrisation"
    if isinstance(structure, Parametrisation):
        if options or structure.shape != tuple(shape):
            expected = f"the shape {structure.shape} and no options, which it has already"
            got = f"{structure} with {tuple(shape)} {options or ''}".rstrip()
            raise ArgumentError(where, "structure", got, expected, "Pass its name")
        return structure
    cls = PARAMETRISATIONS[_check.as_choice(structure, list(PARAMETRISATIONS), where, "structure")]
    known = [f.name for f in dataclasses.fields(cls) if f.name != "shape"]
    for option in options:
        if option not in known:
            expected = f"an option of {structure!r}: {', '.join(known) or 'it has none'}"
            raise ArgumentError(where, option, f"{options[option]!r}", expected, "Leave it out")
    return cls(shape, **options)
