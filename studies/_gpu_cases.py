"""What the GPU study runs, from sizes alone: the grid of checks, the timed cases with their floors, and the predictions.

The predictions were written before the first run on a device; nothing that was measured has changed them.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

from sepmat.kernels.cuda.specialise import SIDES as SIDES_OF_KERNEL
from sepmat.kernels.plan import order

Shapes = tuple[tuple[int, int], ...]
BYTES = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16, "bfloat16": 2}
LIMITS = {"float64": 1e-13, "float32": 2e-6}  # of ‖ŷ − y‖ / ‖y‖, times √N in float32
PARTS = ("env", "correct", "chain", "sum", "form", "layer", "toeplitz", "torch", "sanitize")
LONGER = ("sanitize",)  # part of a second call: only where it is named


def power(side: int, modes: int) -> Shapes:
    """side^modes, square."""
    return ((side, side),) * modes


def label(shapes: Shapes) -> str:
    """8^5, or 12×20 · 1×4."""
    if len(set(shapes)) == 1 and shapes[0][0] == shapes[0][1]:
        return f"{shapes[0][0]}^{len(shapes)}"
    return " · ".join(f"{m}×{n}" for m, n in shapes)


# --- correctness ------------------------------------------------------------------------------------------------------

SIDES = (2, 3, 4, 5, 8, 12, 16, 24, 32, 64, 128)
MODES = range(1, 9)
ROWS = (1, 2, 7, 64, 1024)
LAYOUTS = ("rows", "columns", "transposed", "strided", "offset")
MIXED: tuple[Shapes, ...] = (
    ((3, 5),),
    ((12, 20), (1, 4)),
    ((3, 5), (5, 3)),
    ((1, 4), (3, 5), (12, 20)),
    ((5, 3), (4, 1), (7, 2), (2, 6)),
    ((8, 8), (3, 5), (8, 8)),
    ((16, 8), (8, 16), (4, 4)),
    ((2, 2), (33, 17)),
)
SUMMED: tuple[Shapes, ...] = (power(4, 3), power(8, 2), power(8, 4), power(16, 3), power(32, 2), ((3, 5), (12, 20)))
ROW, ENTRIES = 2**18, 2**26  # the longest row, and the most entries of x


@dataclasses.dataclass(frozen=True)
class Check:
    """One product to be compared: terms 0 is a plain Kronecker product.

    kernel: "" is what the library chooses, "kernel" and "merged plan" are forced.
    """

    shapes: Shapes
    terms: int
    dtype: str
    rows: int
    layout: str
    kernel: str
    library: str = "cupy"

    @property
    def group(self) -> str:
        """The checks that share factors and a compiled kernel."""
        return f"{label(self.shapes)}{f' × {self.terms} terms' if self.terms else ''} {self.dtype}"

    @property
    def columns(self) -> int:
        """Entries of a row of x."""
        return math.prod(n for _, n in self.shapes)

    @property
    def results(self) -> int:
        """Entries of a row of y."""
        return math.prod(m for m, _ in self.shapes)

    @property
    def limit(self) -> float:
        """Of the relative error."""
        single = self.dtype in ("float32", "complex64")
        return LIMITS["float32"] * math.sqrt(len(self.shapes)) if single else LIMITS["float64"]

    def __str__(self) -> str:
        kernel = f", {self.kernel}" if self.kernel else ""
        return f"{self.group}, {self.rows} rows, {self.layout}, {self.library}{kernel}"


def grid() -> dict[str, list[Check]]:
    """All checks by group: by the library's own plan, by the kernel wherever there is one, by GEMMs alone."""
    kernels = ("", "kernel", "merged plan")
    real, wide = ("float32", "float64"), ("complex64", "complex128")
    chains = [power(p, n) for p in SIDES for n in MODES if p**n <= ROW] + list(MIXED)
    found: dict[str, list[Check]] = {}
    for check in itertools.chain(
        _checks(chains, (0,), real, kernels),
        _checks(SUMMED, (1, 2, 8), real, kernels),
        _checks(MIXED + (power(8, 3), power(32, 2)), (0, 2), wide, ("",)),
        (
            Check(s, 0, dtype, rows, layout, "", "torch")
            for s in chains
            for dtype in real
            for rows in (1, 7, 64)
            for layout in ("rows", "strided")
        ),
    ):
        possible = check.kernel != "kernel" or max(map(max, check.shapes)) <= SIDES_OF_KERNEL
        if possible and check.rows * max(check.columns, check.results) <= ENTRIES:
            found.setdefault(check.group, []).append(check)
    return found


def _checks(chains: Any, terms: Any, dtypes: Any, kernels: tuple[str, ...]) -> Iterator[Check]:
    for s, t, dtype, rows, layout, kernel in itertools.product(chains, terms, dtypes, ROWS, LAYOUTS, kernels):
        yield Check(s, t, dtype, rows, layout, kernel)


# --- timing -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    """One timed product of so many rows; kind says what the matrix is and which ways to it there are.

    kind: chain, sum, form (a low-rank update whose factors are Kronecker sums), layer (a sum of Kronecker products in
    bfloat16), toeplitz, circulant, backward. size: of toeplitz, circulant and form; rank: of form.
    """

    part: str
    kind: str
    rows: int
    dtype: str = "float32"
    shapes: Shapes = ()
    terms: int = 1
    size: int = 0
    rank: int = 0
    compiled: bool = False  # whether torch.compile is one of the ways: it takes seconds

    @property
    def name(self) -> str:
        """What tables, claims and the record call it."""
        what = label(self.shapes) if self.shapes else f"n = {self.size}"
        words = [self.kind] if self.kind in ("toeplitz", "circulant", "form", "backward") else []
        words += [what] + ([f"r = {self.rank}"] if self.rank else []) + ([f"R = {self.terms}"] if self.shapes else [])
        words = [w for w in words if w != "R = 1" or self.kind == "layer"]
        return f"{' '.join(words)}, M = {self.rows}" + ("" if self.dtype == "float32" else f", {self.dtype}")

    @property
    def columns(self) -> int:
        """Entries of a row of x."""
        return math.prod(n for _, n in self.shapes) if self.shapes and self.kind != "form" else self.size

    @property
    def results(self) -> int:
        """Entries of a row of y."""
        return math.prod(m for m, _ in self.shapes) if self.shapes and self.kind != "form" else self.size

    @property
    def bytes(self) -> int:
        """x read once and y written once (forward and backward: x and the gradient of y read, y and that of x written)."""
        once = BYTES[self.dtype] * self.rows * (self.columns + self.results)
        return 2 * once if self.kind == "backward" else once

    @property
    def flops(self) -> int:
        """Of the factored product, one term after the other; for form those of its two thin factors."""
        if self.kind == "form":
            return 4 * self.rows * self.size * self.rank
        if self.kind in ("toeplitz", "circulant"):
            return 0  # below all floors of bytes
        sizes, total = [n for _, n in self.shapes], 0
        for i in order(list(self.shapes)):
            m, _ = self.shapes[i]
            total += 2 * self.rows * m * math.prod(sizes)
            sizes[i] = m
        return total * self.terms * (3 if self.kind == "backward" else 1)

    def floor(self, ceilings: dict[str, Any]) -> float | None:
        """Seconds that no program of this machine can go below; None where the rate of the dtype was not measured."""
        copy, rate = ceilings.get("copy"), ceilings.get(f"gemm {self.dtype}")
        if copy is None or (rate is None and self.flops):
            return None
        return max(self.bytes / copy, self.flops / rate if self.flops else 0.0)


def timed() -> list[Case]:
    """All timed cases, in the order of the parts; within a part the claimed ones first."""
    chain = [(8, 5), (8, 4), (16, 3), (32, 3), (8, 6), (16, 4), (64, 2), (64, 3), (128, 2), (8, 3), (2, 10), (4, 7)]
    return [
        *(Case("chain", "chain", 1024, shapes=power(p, n), compiled=(p, n) in ((8, 5), (32, 3))) for p, n in chain),
        Case("chain", "chain", 1024, "float64", power(8, 5)),
        Case("chain", "chain", 1024, "float64", power(32, 3)),
        Case("chain", "chain", 16, shapes=power(8, 8)),
        Case("chain", "chain", 1024, shapes=((12, 20), (20, 12), (8, 8))),
        Case("sum", "sum", 4096, shapes=power(32, 2), terms=8),
        Case("sum", "sum", 1024, shapes=power(8, 4), terms=8),
        Case("sum", "sum", 1024, shapes=power(16, 3), terms=4),
        *(Case("form", "form", 8192, "bfloat16", power(64, 2), 8, 4096, r) for r in (16, 64)),
        *(Case("layer", "layer", 8192, "bfloat16", power(64, 2), R) for R in (1, 4, 8)),
        *(Case("layer", "layer", 8192, "bfloat16", power(32, 2), R) for R in (1, 8)),
        Case("layer", "backward", 8192, "bfloat16", power(64, 2), 1),
        *(Case("toeplitz", "toeplitz", 8192, size=n) for n in (512, 1024, 4096)),
        *(Case("toeplitz", "circulant", 8192, size=n) for n in (512, 4096)),
        *(Case("torch", "backward", 1024, shapes=power(p, n), compiled=n == 5) for p, n in ((8, 5), (16, 3), (32, 3))),
        Case("torch", "backward", 4096, shapes=power(32, 2), terms=8),
    ]


# --- what was predicted for an H100 before the first run --------------------------------------------------------------

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Ranges: microseconds of the floor, of `way` and of the best other one (or the one named); times linear_operator."""

    floor: float
    ours: Range
    other: Range
    linear_operator: Range | None = None
    way: str = "sepmat"
    against: str = ""


PREDICTIONS = {
    "8^3, M = 1024": Prediction(1.4, (5, 8), (10, 25), (5, 10)),
    "8^4, M = 1024": Prediction(11.2, (16, 22), (30, 45), (6, 10)),
    "8^5, M = 1024": Prediction(89, (125, 160), (300, 400), (8, 14)),
    "8^6, M = 1024": Prediction(716, (1900, 2300), (2400, 3200), (5, 8)),
    "16^3, M = 1024": Prediction(11.2, (17, 25), (45, 60), (4, 7)),
    "16^4, M = 1024": Prediction(179, (480, 600), (850, 1100), (4, 6)),
    "32^3, M = 1024": Prediction(107, (170, 220), (320, 420), (2.5, 4)),
    "64^2, M = 1024": Prediction(18, (25, 35), (25, 35), (1.2, 2)),
    "64^3, M = 1024": Prediction(1709, (2300, 2800), (2300, 2800), (1.2, 2)),
    "128^2, M = 1024": Prediction(142, (170, 220), (170, 220), (1.2, 2)),
    "8^8, M = 16": Prediction(716, (1900, 2400), (2600, 3400), (5, 8)),
    "32^2 R = 8, M = 4096": Prediction(72, (100, 125), (200, 300), (3, 5)),
    "8^5, M = 1024, float64": Prediction(179, (400, 480), (600, 800), (6, 10)),
    "form 64^2 r = 16 R = 8, M = 8192, bfloat16": Prediction(45, (55, 75), (110, 150)),
    "64^2 R = 1, M = 8192, bfloat16": Prediction(45, (75, 110), (110, 140)),
    "64^2 R = 4, M = 8192, bfloat16": Prediction(45, (90, 130), (260, 330)),
    "64^2 R = 8, M = 8192, bfloat16": Prediction(86, (140, 200), (450, 600)),
    "toeplitz n = 512, M = 8192": Prediction(11, (20, 30), (130, 180), way="dense GEMM, TF32", against="FFT chain"),
    "toeplitz n = 1024, M = 8192": Prediction(22, (60, 80), (250, 330), way="dense GEMM, TF32", against="FFT chain"),
    "toeplitz n = 4096, M = 8192": Prediction(90, (800, 800), (950, 1300), way="dense GEMM, TF32", against="FFT chain"),
}
PREDICTED_CEILINGS = {  # bytes or flops a second
    "copy": 3.0e12,
    "gemm float32": 60e12,
    "gemm tf32": 395e12,
    "gemm bfloat16": 800e12,
    "gemm float64": 60e12,
}
MISS = 1.5  # a prediction that is further off is explained before code changes


def miss(measured: float, predicted: Range) -> float:
    """How far outside the range: 1 inside, above it measured / end, below it −(end / measured)."""
    low, high = predicted
    return measured / high if measured > high else -low / measured if measured < low else 1.0


# FastKron on an A100 80 GB, float32, GFLOP/s as its authors published them, and the fraction of that machine's floor
PUBLISHED = {
    "8^5, M = 1024": 0.26,
    "8^6, M = 1024": 0.33,
    "16^4, M = 1024": 0.54,
    "32^3, M = 1024": 0.65,
    "64^2, M = 1024": 0.67,
    "64^3, M = 1024": 0.87,
    "128^2, M = 1024": 0.83,
    "8^8, M = 16": 0.32,
}
