"""Trainable structures by name: circulant and Toeplitz matrices, low displacement rank, Kronecker products, LSR.

One small frozen class for each structure, looked up in PARAMETRISATIONS; a new one is one class and one entry. The
contract, and how the parameters start, is in `contract`.
"""

import dataclasses
import math
from typing import Any, ClassVar

from torch import Tensor

from .. import _check
from ..displacement import LowDisplacementRank
from ..errors import ArgumentError
from ..kronecker import Kronecker
from ..low_rank import LowRank
from ..matrix import Product, StructuredMatrix
from ..rearranged import kron_sum
from ..separated import Separated
from ..toeplitz import Circulant, SkewCirculant, Toeplitz
from .baselines import (
    BlockCirculantParametrisation,
    DenseParametrisation,
    KAdaptationParametrisation,
    LoRAParametrisation,
)
from .contract import Pair, Parameters, Parametrisation, as_two_shapes, divisor, split

# vectors: circulant and Toeplitz matrices, low displacement rank --------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _OfVectors(Parametrisation):
    """One matrix of a class, or two as SURM has them (Sehanobish et al. 2024): a is random at the start, b = 0."""

    factors: int = 1
    transforms = True

    def _check(self) -> None:
        self._set(factors=_check.as_integer(self.factors, self.name, "factors", 1, 2))

    @property
    def moved(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(name for name in self.parameter_shapes() if not name.startswith("a"))

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


class _OfOneVector(_OfVectors):
    """N = max(out, in) numbers, or twice as many."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        names = ("c",) if self.factors == 1 else ("a", "b")
        return dict.fromkeys(names, (max(self.shape),))


class CirculantParametrisation(_OfOneVector):
    """W[i, j] = c[(i - j) mod N], the top-left corner of N×N, N = max(out, in); factors=2: c = a ∘ b (SURM)."""

    name = "circulant"
    _class: ClassVar[type[Circulant | SkewCirculant]] = Circulant

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        c = parameters["c"] if self.factors == 1 else parameters["a"] * parameters["b"]
        return self._class._of(c=c, corner=self.shape)


class SkewCirculantParametrisation(CirculantParametrisation):
    """W[i, j] = c[i - j], and -c[N + i - j] above the diagonal; the corner of N×N; factors=2: c = a ∘ b."""

    name = "skew_circulant"
    _class = SkewCirculant


class SymmetricToeplitzParametrisation(_OfOneVector):
    """W[i, j] = c[|i - j|], c: (max(out, in),); factors=2: T(b) T(a), out×N times N×in, N = max(out, in) (SURM)."""

    name = "symmetric_toeplitz"

    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        (m, n), N = self.shape, max(self.shape)
        if self.factors == 1:
            return _symmetric(parameters["c"], m, n)
        return Product._of(factors=(_symmetric(parameters["b"], m, N), _symmetric(parameters["a"], N, n)))

    @property
    def _inner(self) -> int:
        return max(self.shape)


def _symmetric(c: Tensor, m: int, n: int) -> Toeplitz:
    return Toeplitz._of(c=c[:m], tail=c[1:n])


class ToeplitzParametrisation(_OfVectors):
    """W[i, j] = c[i - j] on and below the diagonal, r[j - i - 1] above it: the row is stored without the corner entry.

    c: (out,), r: (in - 1,). factors=2: T(b_c, b_r) T(a_c, a_r), out×N times N×in, N = max(out, in).
    """

    name = "toeplitz"

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

    @property
    def _inner(self) -> int:
        return max(self.shape)


@dataclasses.dataclass(frozen=True)
class LowDisplacementRankParametrisation(Parametrisation):
    """W = Σ_k Z_1(G[:, k]) Z_{-1}(H[:, k]), k < rank: circulants times skew-circulants; the corner of N×N.

    G, H: (N, rank), N = max(out, in). G starts at zero. Every matrix of displacement rank <= rank is one.
    """

    rank: int = 1
    name = "ldr"
    moved = ("G",)
    transforms = True

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


# Kronecker products -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class KroneckerParametrisation(Parametrisation):
    """W = Σ_l A1[l] ⊗ A2[l], l < terms. A1: (terms, o1, i1), zero at the start, A2: (terms, o2, i2); o1 o2 = out, i1 i2 = in.

    shapes: ((o1, i1), (o2, i2)); by default both sizes are split as evenly as possible: (32×32) ⊗ (24×24) for 768². rank r
    in their place: (out/r × r) ⊗ (r × in/r) as in SURM (Sehanobish et al. 2024), in + out parameters for any r; r = 1
    is LoRA of rank 1.
    """

    shapes: tuple[Pair, Pair] | None = None
    rank: int | None = None
    terms: int = 1
    name = "kronecker"
    moved = ("A1",)

    def _check(self) -> None:
        (m, n), shapes = self.shape, self.shapes
        if shapes is not None and self.rank is not None:
            _check.one_of(self.name, shapes=shapes, rank=self.rank)
        if self.rank is not None:
            r = divisor(self.rank, self.shape, self.name, "rank")
            shapes = ((m // r, r), (r, n // r))
        (a, b), (c, d) = as_two_shapes(self._default() if shapes is None else shapes, self.shape, self.name)
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


class KronAParametrisation(KroneckerParametrisation):
    """KronA (Edalati et al. 2022): W = A1 ⊗ A2 of the most even sizes with the fewest parameters, 32×24 ⊗ 24×32 for 768²."""

    name = "krona"

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
    name = "lsr"
    moved = ("A1",)

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

    def separated(self, parameters: Parameters) -> tuple[Separated, Separated]:
        """The two factors as sums of Kronecker products, out×K and K×in: for their κ, not for products."""
        p = parameters
        A, B = (Separated._of(factors=(p[f"{X}1"], p[f"{X}2"]), scales=None) for X in "AB")
        return A, B


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
