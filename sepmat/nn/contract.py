"""The contract of trainable structures: which parameters each of them has, how they start, which matrix of the core they are.

A parametrisation holds no tensors and does no mathematics of its own. Shapes are (out, in), as of the weight of
`torch.nn.Linear`, rectangular everywhere. Three methods make a trainable structure; what else the library asks about one has a
default: which parameters are nearest to a given ΔW (`nearest`), how `advise` finds its size (`advised`, `ranked`, `of`,
`trials`), what a sum of several is (`summed`), and the method of PEFT that it is an adapter of (`peft`).

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
next to nothing. Most draws of ten such layers lose a factor of 4 to 500, and some die. A residual
connection or a normalisation between them is the cure; an update, which starts at 0 beside a layer that works, has no such trouble.

All draws are uniform: bounded, as Kaiming's.
"""

import abc
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from .. import _check
from ..errors import ArgumentError, UnsupportedError
from ..kronecker import as_shapes
from ..matrix import StructuredMatrix

Parameters = Mapping[str, Tensor]
Found = tuple[Parameters, bool]  # and whether they are proven to be the best
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
    advised: ClassVar[bool] = False  # whether `advise` tries it
    ranked: ClassVar[str | None] = None  # the structure of sepmat.approximate that has its matrices, of all sizes
    peft: ClassVar[str | None] = None  # the method of PEFT that it is an adapter of: "surm", "lsr", "lora"

    # what a structure must say ------------------------------------------------------------------------------------------

    @abc.abstractmethod
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """The names and the shapes of the parameters."""

    @abc.abstractmethod
    def variances(self, gain: float | None) -> dict[str, float]:
        """The variance that each parameter starts with; gain=None: the start of an update."""

    @abc.abstractmethod
    def matrix(self, parameters: Parameters) -> StructuredMatrix:
        """The matrix of the core, of the shape (out, in), on these tensors."""

    # what it may say ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Checks the options and fills in what was not given."""
        self._set()

    def scale(self, alpha: float | None) -> float:
        """What ΔW is multiplied by for an alpha; None: 1."""
        return 1.0 if alpha is None else float(alpha)

    def nearest(self, M: Tensor, seed: Any = 0) -> Found:
        """(parameters, whether they are proven to be the best) of the matrix of the structure nearest to M, float64."""
        advice = 'Use "lora" or "lsr", which have the same rank, or train it'
        raise UnsupportedError("from_delta", "structure", repr(self.name), "one with a nearest matrix", advice)

    @classmethod
    def of(cls, A: StructuredMatrix) -> Self | None:
        """The parametrisation that has a matrix of the core, if one of this structure has it; asked where it is `ranked`."""
        return None

    @classmethod
    def trials(cls, shape: Pair, budget: int) -> Iterable[Self]:
        """The sizes that `advise` fits by `nearest` for a budget of parameters, where `approximate` does not rank them."""
        return () if cls.ranked else (cls(shape),)

    @classmethod
    def summed(cls, parts: Sequence[Self], parameters: Sequence[Parameters]) -> tuple[dict[str, Any], Parameters]:
        """The options that change, and the parameters, of the sum of matrices of this structure.

        Parameters add where ΔW is linear in all of them. Raises UnsupportedError where the sum is not in the class.
        """
        if set(parts[0].moved) != set(parts[0].parameter_shapes()):
            raise not_closed(f"ΔW of {cls.name!r} is not linear in all of its parameters")
        if any(p.options != parts[0].options for p in parts):
            raise not_closed(f"{cls.name!r} with options that differ")
        return {}, added(parameters)

    # what follows ---------------------------------------------------------------------------------------------------------

    def __post_init__(self) -> None:
        m, n = _check.as_shape(self.shape, self.name)
        self._set(shape=(_check.as_integer(m, self.name, "out", 1), _check.as_integer(n, self.name, "in", 1)))
        self._check()

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.parameter_shapes().values())

    @property
    def options(self) -> dict[str, Any]:
        """All fields but the shape, with what was filled in."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "shape"}

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


def added(parameters: Sequence[Parameters]) -> Parameters:
    """Their sums, name by name."""
    return {name: sum((p[name] for p in parameters[1:]), parameters[0][name]) for name in parameters[0]}


def not_closed(why: str) -> UnsupportedError:
    """What `summed` raises."""
    return UnsupportedError(
        "add_weighted_adapter",
        "adapters",
        why,
        "an exact sum in the same class",
        "set_adapter with a list of names sums them in the forward pass, merge_adapter in the weight",
    )


# sizes ----------------------------------------------------------------------------------------------------------------


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


def as_two_shapes(shapes: Any, full: Pair, where: str) -> tuple[Pair, ...]:
    pairs = as_shapes(shapes, full, where)
    if len(pairs) != 2:
        raise ArgumentError(where, "shapes", f"{len(pairs)} factors", "two", "Pass ((o1, i1), (o2, i2))")
    return pairs
