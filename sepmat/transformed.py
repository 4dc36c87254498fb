"""What classes whose products are fast Fourier transforms have in common: each product by them, or by the dense form where sizes
make that faster (kernels/plan_fft.py)."""

import abc
import math
from typing import Any

from .frozen import once
from .kernels import fourier, plan_fft
from .kernels.unrolled import transform
from .matrix import StructuredMatrix


class Transformed(StructuredMatrix):
    """A matrix with products by transforms, and a dense form that is remembered."""

    _transforms = 2  # for each vector

    @abc.abstractmethod
    def _length(self) -> int:
        """Of the transforms of a product."""

    @abc.abstractmethod
    def _by_fft(self, x: Any, axis: int) -> Any:
        """What _apply does for a matrix that is not small."""

    @once
    def _fft_length(self) -> int:
        return self._length()

    def _apply(self, x: Any, axis: int) -> Any:
        if not self._remembers or self._plan(x.shape, axis).route == "fft":
            return self._by_fft(x, axis)
        return self._times_dense(x, axis)

    def _suits_numpy(self, shape: tuple[int, ...], axis: int) -> bool:
        return fourier.few(shape) or self._plan(shape, axis).route == "dense"

    def _plan(self, shape: tuple[int, ...], axis: int) -> plan_fft.Transform:
        """By sizes alone; a gradient needs the transforms."""
        m, n = self.shape
        vectors = 1 if len(shape) == 1 else math.prod(shape) // max(1, n)
        latest: plan_fft.Transform | None = self.__dict__.get("_latest")
        if latest is None or latest.vectors != vectors:
            latest = transform(self._arrays[0], m, n, self._fft_length, vectors, self._transforms)
            self.__dict__["_latest"] = latest
        return latest if latest.route == "fft" or self._remembers else latest.by_fft()
