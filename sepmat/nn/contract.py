"""The contract of trainable structures: which parameters each of them has, how they start, which matrix of the core they are.

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
next to nothing. Most draws of ten such layers lose a factor of 4 to 500, and some die. A residual
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
from ..errors import ArgumentError
from ..kronecker import as_shapes
from ..matrix import StructuredMatrix

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
