"""Trainable structures: which parameters each of them has, how they start, and which matrix of the core they are.

One small frozen class for each structure, looked up by name in PARAMETRISATIONS; a new one is one class and one entry.
A parametrisation holds no tensors and does no mathematics of its own. Shapes are (out, in), as of the weight of
`torch.nn.Linear`, rectangular everywhere.

**The start of an update** (`zero=True`). ΔW is linear in one of its factors, the one named by `moved`. That one is
zero, all others are random: ΔW = 0, and its gradient is not. (With two factors zero both gradients would vanish for ever.)
The first step therefore is ΔW = L(step of the zero factor) with a random linear map L, and the variances of the others
decide how large it is. They are such that entries of L(Z) for independent Z of variance 1 have variance r / (3 in), what
LoRA of rank r has: B = 0, and A uniform of variance 1 / (3 in). r is the inner rank for the structures that have one
(for A1 ⊗ A2 it is the number of columns of A1, as in Kaiming's rule for A2 alone), and 8, LoRA's usual rank, for the
others. So one learning rate serves all structures whose other factors can say how large a step is. A structure of a single factor
(factors=1, "dense", "block_circulant") has none: there L(Z) has variance 1, and needs a learning rate, or an alpha, √(8 / (3 in)) times as large.

**The start of a layer** (`zero=False`). Every entry of W has the variance gain / in, so that W x has the variance
gain · Var(x) for any x with independent entries, whatever the structure, for every row of W has `in` entries and
their variances add up. The default gain 1/3 is that of `torch.nn.Linear`; 1 keeps the variance from layer to layer,
2 does so where a ReLU follows. A product of factors gets it as the product of their variances times the number of
terms summed over, shared out evenly.

That is the mean over draws of W; how far one draw is from it depends on how many independent numbers an output meets. Ten
layers without anything between them keep a signal within a factor of about 3 in the median. So they do behind ReLUs, where
rows of W are independent. The rows of a circulant, Toeplitz or W(G, H) matrix are made of the same numbers, so the mean of x,
which a ReLU makes positive, meets the same sum in every row: if that is negative, the next ReLU leaves
next to nothing. Most draws of ten such layers lose a factor of 5 to 500, some die (in the pinwheel of SURM 2 of 20 do). A residual
connection or a normalisation between them is the cure; an update, which starts at 0 beside a layer that works, has no such trouble.

All draws are uniform: bounded, as Kaiming's.
"""

import abc
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import _check
from ..basic import Dense
from ..displacement import LowDisplacementRank
from ..errors import ArgumentError
from ..kernels.terms import khatri_rao
from ..kronecker import Kronecker, as_shapes
from ..low_rank import LowRank
from ..matrix import Product, StructuredMatrix
from ..rearranged import kron_sum
from ..separated import Separated
from ..toeplitz import Circulant, SkewCirculant, Toeplitz
from .block_circulant import BlockCirculant

Parameters = Mapping[str, Tensor]
Pair = tuple[int, int]

GAIN = 1 / 3  # of torch.nn.Linear
REFERENCE_RANK = 8  # the LoRA whose first step structures without an inner rank have


@dataclasses.dataclass(frozen=True)
class Parametrisation(abc.ABC):
    """A trainable structure of a given shape (out, in); its options are the further fields.

    >>> from sepmat.nn import parametrisation
    >>> p = parametrisation("lsr", (768, 768), rank=4, terms=16)
    >>> p.parameter_shapes()
    {'A1': (16, 32, 2), 'A2': (16, 24, 2), 'B1': (16, 2, 32), 'B2': (16, 2, 24)}
    >>> p.num_parameters
    3584
    """

    shape: Pair

    name: ClassVar[str]
    moved: ClassVar[tuple[str, ...]]  # the parameters of the factor that starts at zero; ΔW is linear in it
    shared: ClassVar[tuple[str, ...]] = ()  # what layers of one kind may have in common
    transforms: ClassVar[bool] = False  # whether products are FFTs, which half precision does not have

    def __post_init__(self) -> None:
        m, n = _check.as_shape(self.shape, self.name)
        self._set(shape=(_check.as_integer(m, self.name, "out", 1), _check.as_integer(n, self.name, "in", 1)))
        self._check()

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _check(self) -> None:
        """Checks the options and fills in what was not given."""
        self._set()

    @abc.abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The names and the shapes of the parameters."""

    @abc.abstractmethod
    def variances(self, gain: float | None) -> dict[str, float]:
        """The variance that each parameter starts with; gain=None: the start of an update."""

    @abc.abstractmethod
    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        """The matrix of the core, of the shape (out, in), on these tensors."""

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    @property
    def options(self) -> dict[str, Any]:
        """All fields but the shape, with what was filled in."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "shape"}

    def scale(self, alpha: float | None) -> float:
        """What ΔW is multiplied by for an alpha; None: 1."""
        return 1.0 if alpha is None else float(alpha)

    @torch.no_grad()
    def initialise(
        self, parameters: Parameters, *, zero: bool, gain: float = GAIN, generator: torch.Generator | None = None
    ) -> None:
        """Fills the parameters in place, as the module's docstring says; those that are not given are left alone.

        zero: the start of an update (ΔW = 0), else that of a layer (Var(W x) = gain Var(x)). generator: where the
        numbers come from; None: torch's default generator, as for `torch.nn.Linear`. Nothing else is touched.
        """
        variances = self.variances(None if zero else gain)
        for name, p in parameters.items():
            bound = math.sqrt(3 * variances[name])
            if bound:
                p.uniform_(-bound, bound, generator=generator)
            else:
                p.zero_()

    @property
    def _reference(self) -> float:
        """The variance of the entries of the first step of LoRA of the reference rank."""
        return REFERENCE_RANK / (3 * self.shape[1])


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


def split(n: int) -> Pair:
    """n as the product of two sizes as near to each other as possible, the larger one first.

    >>> split(768), split(3072), split(7)
    ((32, 24), (64, 48), (7, 1))
    """
    small = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
    return (n // small, small)


def divisor(value: Any, sizes: Iterable[int], where: str, argument: str) -> int:
    """A divisor of all the sizes."""
    common = math.gcd(*sizes)
    value = _check.as_integer(value, where, argument, 1)
    if common % value:
        divisors = ", ".join(str(k) for k in range(1, common + 1) if common % k == 0)
        expected = f"a divisor of {' and '.join(map(str, dict.fromkeys(sizes)))}"
        raise ArgumentError(where, argument, str(value), expected, f"Use one of {divisors}")
    return value


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


def as_two_shapes(shapes: Any, full: Pair, where: str) -> tuple[Pair, ...]:
    pairs = as_shapes(shapes, full, where)
    if len(pairs) != 2:
        raise ArgumentError(where, "shapes", f"{len(pairs)} factors", "two", "Pass ((o1, i1), (o2, i2))")
    return pairs


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


# low rank, and what to compare with -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LoRAParametrisation(Parametrisation):
    """LoRA (Hu et al. 2021): W = B A, A: (rank, in), B: (out, rank), zero at the start; alpha means alpha / rank."""

    rank: int = 8
    name = "lora"
    moved = ("B",)

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
