"""A timed case with its arrays on the device and the truth for some of its rows; what a way to compute it is."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.linalg

from studies import _gpu_data
from studies._gpu_cases import Case
from studies._gpu_device import Device

LIMITS = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-2}  # of the error of a way: dense ones add up longer sums
HOME = {"form": "torch", "layer": "torch", "backward": "torch"}  # where the arrays of a kind of case are made
ROTATED = 8  # inputs in turn at most; together four times the L2 cache where so many do


@dataclasses.dataclass(frozen=True)
class Way:
    """make() returns call(x) for an x that `given` has made of the common one; `back` brings its result to rows."""

    name: str
    library: str
    make: Callable[[], Callable[[Any], Any]]
    columns: bool = False  # it is given columns, and returns columns
    limit: float | None = None


class Problem:
    """The arrays of a case on the device, and the truth for some of its rows."""

    def __init__(self, case: Case, device: Device, seed: int) -> None:
        self.case, self.device, self.home = case, device, HOME.get(case.kind, "cupy")
        if self.home == "torch" and not device.torch:
            raise RuntimeError("torch sees no CUDA device")
        self.seed, xp = 1000 * seed, device.cupy
        if case.kind in ("toeplitz", "circulant"):
            shapes: list[tuple[int, ...]] = [(case.size,)] * (2 if case.kind == "toeplitz" else 1)
        elif case.kind == "form":
            shapes = []
        else:
            shapes = [(case.terms, *s) if self.summed else s for s in case.shapes]
        self.factors = [self._array(xp, i, s) for i, s in enumerate(shapes)]
        if case.kind == "toeplitz":
            self.factors[1][:1] = self.factors[0][:1]
        count = max(1, min(ROTATED, math.ceil(4 * device.l2 / case.bytes)))
        self.inputs = [self._array(xp, 100 + i, (case.rows, case.columns)) for i in range(count)]
        self.g = self._array(xp, 99, (case.rows, case.results)) if case.kind == "backward" else None
        self.update = self._update() if case.kind == "form" else None
        self.chosen = _gpu_data.some(case.rows, max(case.columns, case.results))

    @property
    def summed(self) -> bool:
        """Whether factors are stacks of terms."""
        return self.case.kind == "sum" or self.case.terms > 1 or self.case.kind == "layer"

    def _array(self, xp: Any, index: int, shape: Sequence[int]) -> Any:
        kind = "float64" if self.case.dtype == "float64" else "float32"
        a = _gpu_data.draw(xp, self.seed + index, shape, kind)
        return self.tensor(a) if self.home == "torch" else a

    def tensor(self, a: Any) -> Any:
        """a as a tensor of the dtype of the case: the same memory where it has that dtype already."""
        torch = self.device.torch
        return (a if isinstance(a, torch.Tensor) else torch.from_dlpack(a)).to(getattr(torch, self.case.dtype))

    def rows(self, y: Any) -> Any:
        """The chosen rows of an array of either library, on the host in float64."""
        if self.device.torch and isinstance(y, self.device.torch.Tensor):
            index = self.device.torch.as_tensor(self.chosen, device=y.device)
            return y.detach()[index].to(self.device.torch.float64).cpu().numpy()
        return np.asarray(self.device.cupy.asnumpy(y[self.device.cupy.asarray(self.chosen)]), float)

    def host(self, a: Any) -> Any:
        """A small array of either library, on the host in float64."""
        if self.device.torch and isinstance(a, self.device.torch.Tensor):
            return a.detach().to(self.device.torch.float64).cpu().numpy()
        return np.asarray(self.device.cupy.asnumpy(a), float)

    @functools.cached_property
    def truth(self) -> Any:
        """The chosen rows of the product of the first input, in float64; of the gradient of x where that is asked for."""
        x = self.rows(self.inputs[0] if self.g is None else self.g)
        case, factors = self.case, [self.host(F) for F in self.factors]
        if case.kind == "form":
            return x @ self.host(self.update.to_dense()).T
        if case.kind in ("toeplitz", "circulant"):
            column = factors[0]
            row = factors[1] if case.kind == "toeplitz" else np.roll(column[::-1], 1)
            return x @ scipy.linalg.toeplitz(column, row).T
        if self.g is not None:  # the gradient of x of a product y = x Aᵀ is g A
            factors = [np.swapaxes(F, -1, -2) for F in factors]
        return _gpu_data.total(factors, x) if self.summed else _gpu_data.product(factors, x)

    def _update(self) -> Any:
        from sepmat.nn import StructuredUpdate

        torch, case = self.device.torch, self.case
        generator = torch.Generator(self.device.where).manual_seed(self.seed)
        where = {"device": self.device.where, "dtype": torch.bfloat16}
        options: dict[str, Any] = {"rank": case.rank, "terms": case.terms} | where
        update = StructuredUpdate(case.size, case.size, "lsr", **options).requires_grad_(False)
        update.reset_parameters(generator, zero=False)
        return update

    # --- one way to it ------------------------------------------------------------------------------------------------

    def given(self, way: Way, x: Any) -> Any:
        """x as a way wants it, made once and outside the clock."""
        x = self.tensor(x) if way.library == "torch" else x
        if way.columns:
            x = x.mT.contiguous() if way.library == "torch" else self.device.cupy.ascontiguousarray(x.T)
        return x.requires_grad_() if self.g is not None else x

    def error(self, way: Way, y: Any) -> float:
        """Relative error of a result on the chosen rows."""
        y = y.T if way.columns else y
        if tuple(y.shape) != (self.case.rows, self.case.results):
            raise ValueError(f"shape {tuple(y.shape)}")
        return _gpu_data.distance(self.rows(y), self.truth)

    def limit(self, way: Way) -> float:
        """What the error of a way may be."""
        return way.limit or LIMITS[self.case.dtype]
