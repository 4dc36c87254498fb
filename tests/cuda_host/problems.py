"""One launch of the kernel with its data, and the right answer, mode by mode in a wider precision."""

import dataclasses
import math

import numpy as np

from sepmat._bounds import BOUNDS
from sepmat.kernels.cuda.specialise import Specialisation, specialise

WIDER = {"float32": np.float64, "float64": np.longdouble}


def kron(factors, x):
    """(F_1 ⊗ … ⊗ F_k) along the middle axis of x (outer, Π n_i, inner), one mode after the other."""
    y = x.reshape(x.shape[0], *(F.shape[1] for F in factors), x.shape[2])
    for i, F in enumerate(factors):
        y = np.moveaxis(np.tensordot(F, y, axes=(1, i + 1)), 0, i + 1)
    return y.reshape(x.shape[0], -1, x.shape[2])


@dataclasses.dataclass
class Problem:
    """Random factors (terms, m_i, n_i) and x; x and y with `gap` entries between their slices."""

    spec: Specialisation
    outer: int
    inner: int
    terms: int
    transposed: bool
    gap: int
    rng: np.random.Generator

    def __post_init__(self):
        m, n = (math.prod(s[k] for s in self.spec.shapes) for k in (0, 1))
        many_x, many_y = self.spec.kind in ("one", "gather"), self.spec.kind in ("one", "spread")
        self.x_outer, self.y_outer = n * self.inner + self.gap, m * self.inner + self.gap
        self.x = self._draw(self.terms if many_x else 1, self.outer, self.x_outer)
        self.factors = [self._draw(self.terms, *shape) for shape in self.spec.shapes]
        shape = (self.terms if many_y else 1, self.outer, self.y_outer)
        self.room = np.full(math.prod(shape) + self.y_outer, np.nan, self.spec.dtype)  # one slice more than y has
        self.y = self.room[: math.prod(shape)].reshape(shape)

    def _draw(self, *shape):
        return self.rng.standard_normal(shape).astype(self.spec.dtype)

    @property
    def packed(self):
        """The factors as the kernel wants them."""
        stored = [np.swapaxes(F, 1, 2) if self.transposed else F for F in self.factors]
        return np.concatenate([F.reshape(self.terms, -1) for F in stored], axis=1)

    def args(self):
        """The arguments of a launch; y is full of NaN."""
        self.room[:] = np.nan
        numbers = self.outer, self.inner, self.terms, self.x_outer, self.x[0].size, self.y_outer, self.y[0].size
        return (self.x, self.packed, self.y, *map(np.int64, (*numbers, self.transposed)))

    def _exact(self, magnitude):
        wide, cut = WIDER[self.spec.dtype], (-1, self.inner)
        x = magnitude(self.x[..., : self.x_outer - self.gap]).astype(wide).reshape(*self.x.shape[:2], *cut)
        F = [magnitude(factor).astype(wide) for factor in self.factors]
        y = np.stack([kron([f[t] for f in F], x[t % len(x)]) for t in range(self.terms)])
        return y if len(self.y) == self.terms else y.sum(0, keepdims=True)

    def hold(self, y, check):
        """Hold y to the bounds B3, B5; what lies between its slices and behind it must still be NaN."""
        end = self.y_outer - self.gap
        untouched = np.isnan(y[..., end:]).all() and np.isnan(self.room[y.size :]).all()
        assert untouched, "written between the slices of y, or behind it"
        error = np.abs(y[..., :end].reshape(*y.shape[:2], -1, self.inner) - self._exact(lambda a: a))
        k, added = sum(n for _, n in self.spec.shapes), len(y) < self.terms
        name, k = ("B5", k + self.terms) if added else ("B3", k)
        check(error, self._exact(np.abs), BOUNDS[name](k, self.spec.dtype), self.spec.dtype, f"{name} CUDA kernel")


def problem(shapes, dtype, *, outer=3, inner=1, terms=1, kind=None, transposed=False, gap=0, seed=0, **fixed):
    """A problem for the specialisation of these sizes, with some of its numbers fixed by hand."""
    spec = specialise(tuple(shapes), dtype, inner=inner, terms=terms, kind=kind)
    assert spec is not None, f"no kernel for {shapes}, {dtype}"
    spec = dataclasses.replace(spec, **fixed)
    return Problem(
        spec, outer * spec.rows - (spec.rows > 1), inner, terms, transposed, gap, np.random.default_rng(seed)
    )
