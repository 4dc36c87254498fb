"""Identities as property tests, with numbers of two kinds.

seeded: shapes and a seed are drawn, the entries are normal; entries: every entry is drawn (subnormal numbers, signed
zeros, cancellation), at small sizes.
"""

import math

import limits
import numpy as np
import pytest
import reference as ref
from cases import normal
from conftest import SEEDED, check
from hypothesis import given, settings
from hypothesis import strategies as st

DTYPES = ["float32", "float64", "complex64", "complex128"]


class Draw:
    """Numbers drawn by Hypothesis: `size`, `array`, `matrix`; `floor` is what underflow may cost."""

    def __init__(self, data, mode, dtypes=DTYPES):
        self.data, self.mode = data, mode
        self.dtype = data.draw(st.sampled_from(dtypes))
        self.single = self.dtype in ("float32", "complex64")
        self.complex = self.dtype.startswith("complex")
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))) if mode == "seeded" else None
        self.floor = 1e16 * (2.0**-149 if self.single else 2.0**-1074)  # products of entries up to 100

    def size(self, low=0, high=5):
        return self.data.draw(st.integers(low, high if self.mode == "seeded" else min(high, 3)))

    def array(self, *shape):
        if self.rng is not None:
            return normal(self.rng, shape, self.dtype)
        number = st.floats(-100, 100, width=32 if self.single else 64)
        count = math.prod(shape)
        parts = [self.data.draw(st.lists(number, min_size=count, max_size=count)) for _ in range(1 + self.complex)]
        x = np.asarray(parts[0], float) + (1j * np.asarray(parts[1], float) if self.complex else 0)
        return x.reshape(shape).astype(self.dtype)

    def matrix(self, low=0, high=5):
        return self.array(self.size(low, high), self.size(low, high))

    def square(self, low=0, high=5):
        n = self.size(low, high)
        return self.array(n, n)

    def regular(self, high=4):
        """A square matrix of condition below 100."""
        n = self.size(1, high)
        return (self.array(n, n) / 100 + (3 + (2j if self.complex else 0)) * np.eye(n)).astype(self.dtype)

    def close(self, found, expected, scale, c, name=None):
        """|found - expected| <= 10 c eps scale, and strictly the same shape and dtype as what was drawn.

        c: the constant, or a name whose constant stands in limits.py.
        """
        if name is None:
            name, c = c, limits.find(c).c
        found = np.asarray(found)
        assert found.shape == np.asarray(expected).shape and found.dtype == np.result_type(found.dtype, 0)
        error = np.abs(found - expected)
        u = 2.0**-24 if self.single else 2.0**-53
        check(error if np.ndim(scale) else ref.frobenius(error), scale + self.floor / u, 20 * c, self.dtype, name)


def identity(*dtypes):
    """Run with both generators of numbers, for the given dtypes (default: all four)."""

    def decorate(test):
        @pytest.mark.parametrize("mode", ["seeded", "entries"])
        def run(mode):
            examples = SEEDED.get(settings.get_current_profile_name()) if mode == "seeded" else None

            @settings(max_examples=examples or settings.default.max_examples)
            @given(data=st.data())
            def drawn(data):
                test(Draw(data, mode, list(dtypes) or DTYPES))

            drawn()

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate
