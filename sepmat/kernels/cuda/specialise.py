"""One compiled form of kron.cuh: which sides, how many modes in registers, which threads, where in shared memory.

Pure arithmetic of sizes; nothing here knows an array library or a device. `specialise` chooses, `Specialisation` holds the
choice and says what the compiler and the launcher need.

A *tile* is what one block works on: `rows` slices of x, all Π n_i entries of the modes, `inner` trailing entries. It lies in
shared memory as (rows, n_1, …, n_k, inner), entry i at i + i // pad. A *stage* applies the matrices of a run of adjacent
modes: a thread takes Π n_i entries along these modes into registers, and writes Π m_i back. Stages run from the last modes to the
first; one whose Π n_i = Π m_i works in place, others go to a second buffer. The last one writes to y directly where that is coalesced.
"""

import collections
import dataclasses
import functools
import itertools
import math
from pathlib import Path

SIDES = 32  # the largest m_i, n_i: a mode is unrolled, and 64 × 64 does not fit in registers
SHARED_LIMIT = 232_448  # bytes of shared memory a block may have, compute capability 9.0 and 10.0
PAIR_LIMIT = SHARED_LIMIT // 2 - 1024  # that leave room for a second block, which computes while this one loads
PADS = (64, 32, 16, 8)  # a hole after so many entries of a buffer keeps the threads of a warp in different banks
BANK_ROW = 128  # bytes of shared memory that one warp reads at once, if no two threads want the same bank
AHEAD = 128  # bytes of x, or of a factor, that a thread reads before it uses them
KINDS = {"one": (False, False), "sum": (True, True), "spread": (True, False), "gather": (False, True)}  # keep, add
C_TYPES = {"float32": "float", "float64": "double"}
SOURCE = Path(__file__).with_name("kron.cuh")

ARGUMENTS = (
    ("x", "pointer"),
    ("factors", "pointer"),
    ("y", "pointer"),
    ("outer", "int64"),
    ("inner", "int64"),
    ("terms", "int64"),
    ("x_outer", "int64"),
    ("x_term", "int64"),
    ("y_outer", "int64"),
    ("y_term", "int64"),
    ("transposed", "int64"),
)
"""The arguments of every kernel, in order.

x         (outer, Π n_i, inner), the last two axes contiguous; x_outer entries from one slice to the next
factors   (terms, Σ m_i n_i) contiguous: for each term F_1, …, F_k after each other, each row by row
y         (outer, Π m_i, inner), likewise; must not overlap x
terms     of kind "one": 1. x_term, y_term: entries from the x (the y) of one term to that of the next where there are many
          "sum"     y = Σ_l (F_1l ⊗ … ⊗ F_kl) x       one x, read once    (x_term, y_term ignored)
          "spread"  y_l = (F_1l ⊗ … ⊗ F_kl) x         one x, read once    (x_term ignored)
          "gather"  y = Σ_l (F_1l ⊗ … ⊗ F_kl) x_l     many x              (y_term ignored)
transposed  1: each factor is stored as its transpose, (n_i, m_i): the same array then serves the backward, with swapped shapes

Pointers are of the type of the specialisation, all else is a signed 64-bit integer. Block (threads,), dynamic shared memory
shared_bytes, any one-dimensional grid: blocks take tiles(outer, inner) tiles in turn.
"""


@dataclasses.dataclass(frozen=True)
class Specialisation:
    """y[o, :, i] = (F_1 ⊗ … ⊗ F_k) x[o, :, i] for one pass over adjacent modes, or a sum of such, compiled for fixed sides.

    dtype   "float32" or "float64"
    shapes  ((m_1, n_1), …, (m_k, n_k)), the modes of the pass
    inner   trailing entries of a tile; 1 needs the argument inner = 1
    rows    slices of x in a tile
    kind    "one", "sum", "spread" or "gather" (see ARGUMENTS)
    groups  modes of each stage, from the last modes to the first
    values  entries that a thread holds at once
    threads of a block
    pad     entries of a buffer between two holes
    held    terms whose factors stay in shared memory: read once a block if terms <= held, else once a tile
    """

    dtype: str
    shapes: tuple[tuple[int, int], ...]
    inner: int
    rows: int
    kind: str
    groups: tuple[int, ...]
    values: int
    threads: int
    pad: int = 64
    held: int = 1

    @property
    def group(self) -> int:
        """G, the most adjacent modes that meet in registers."""
        return max(self.groups)

    def results(self, terms: int) -> int:
        """How many arrays of the size of y a sum of terms leaves: one where they are added up."""
        return 1 if KINDS[self.kind][1] else terms

    @property
    def itemsize(self) -> int:
        """Bytes of an entry."""
        return 4 if self.dtype == "float32" else 8

    @functools.cached_property
    def stages(self) -> tuple[tuple[int, int, int], ...]:
        """(IN, OUT, STEP) of each stage: it takes the tile from (·, IN, STEP) to (·, OUT, STEP)."""
        found, last = [], len(self.shapes)
        for modes in self.groups:
            m, n = (math.prod(s[k] for s in self.shapes[last - modes : last]) for k in (0, 1))
            found.append((n, m, self.inner * math.prod(s[0] for s in self.shapes[last:])))
            last -= modes
        return tuple(found)

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Entries of the tile before the first stage and after each of them."""
        sizes = [self.rows * self.inner * math.prod(n for _, n in self.shapes)]
        for n, m, _ in self.stages:
            sizes.append(sizes[-1] // n * m)
        return tuple(sizes)

    @property
    def direct(self) -> bool:
        """Whether the last stage writes to y itself: neighbouring threads write 64 bytes or more side by side."""
        return not KINDS[self.kind][1] and self.stages[-1][2] * self.itemsize >= 64

    @functools.cached_property
    def wavefronts(self) -> int:
        """Times that the first warp occupies shared memory to read and write one entry a thread, over all stages; 2 a stage at best."""
        lanes, total = min(32, BANK_ROW // self.itemsize), 0
        for *widths, step in self.stages:
            for width in widths:
                starts = [t // step * step * width + t % step for t in range(lanes)]
                banks = collections.Counter((i + i // self.pad) % lanes for i in starts)
                total += max(banks.values())
        return total

    @property
    def in_place(self) -> bool:
        """Whether one buffer is enough: no stage changes the size of the tile, and x is not needed twice."""
        return max(self._buffers) == 0

    @functools.cached_property
    def _buffers(self) -> tuple[int, ...]:
        """The buffer of x and that of the result of each stage; 3: that of a sum, -1: y itself."""
        keep, add = KINDS[self.kind]
        place = [0]
        for before, after in itertools.pairwise(self.sizes):
            here = place[-1]
            stays = before == after and not (keep and len(place) == 1)
            place.append(here if stays else (2 if here == 1 else 1) if keep else 1 - here)
        if add:
            place[-1] = 3
        if self.direct:
            place[-1] = -1
        return tuple(place)

    @functools.cached_property
    def _layout(self) -> tuple[tuple[int, ...], int]:
        """Where each intermediate begins in shared memory, -1: in y, and how many entries there are in all."""
        room: dict[int, int] = {}
        for buffer, size in zip(self._buffers, self.sizes, strict=True):
            if buffer >= 0:
                room[buffer] = max(room.get(buffer, 0), size + size // self.pad + 1)
        total, start = self.held * self.slot, {-1: -1}
        for buffer in sorted(room):
            start[buffer] = total
            total += room[buffer]
        return tuple(start[buffer] for buffer in self._buffers), total

    @property
    def slot(self) -> int:
        """Entries between the factors of one term and the next in shared memory: Σ m_i n_i, up to a multiple of 4."""
        return -(-sum(m * n for m, n in self.shapes) // 4) * 4

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block."""
        return self._layout[1] * self.itemsize

    @property
    def entry(self) -> str:
        """The C name of the kernel."""
        modes = "_".join(f"{m}x{n}" for m, n in self.shapes)
        stages = "".join(map(str, self.groups))
        tile = f"i{self.inner}_r{self.rows}_g{stages}_v{self.values}_t{self.threads}_p{self.pad}_h{self.held}"
        return f"kron_{self.kind}_f{8 * self.itemsize}_{modes}_{tile}"

    @property
    def defines(self) -> dict[str, str]:
        """The macros that kron.cuh reads."""
        keep, add = KINDS[self.kind]
        return {
            "KRON_ENTRY": self.entry,
            "KRON_REAL": C_TYPES[self.dtype],
            "KRON_M": ",".join(str(m) for m, _ in self.shapes),
            "KRON_N": ",".join(str(n) for _, n in self.shapes),
            "KRON_GROUPS": ",".join(map(str, self.groups)),
            "KRON_PLACES": ",".join(map(str, self._layout[0])),
            "KRON_INNER": str(self.inner),
            "KRON_ROWS": str(self.rows),
            "KRON_VALUES": str(self.values),
            "KRON_AHEAD": str(AHEAD // self.itemsize),
            "KRON_THREADS": str(self.threads),
            "KRON_HELD": str(self.held),
            "KRON_PAD": str(self.pad),
            "KRON_KEEP": str(int(keep)),
            "KRON_ADD": str(int(add)),
        }

    @property
    def options(self) -> tuple[str, ...]:
        """What the compiler is told beside the source."""
        return ("-std=c++17",)

    def code(self) -> str:
        """The source, complete: the macros as its first lines, then kron.cuh, which includes nothing."""
        macros = "".join(f"#define {name} {value}\n" for name, value in self.defines.items())
        return f'{macros}#line 1 "{SOURCE.name}"\n{SOURCE.read_text(encoding="utf-8")}'

    def tiles(self, outer: int, inner: int) -> int:
        """How many tiles x (outer, Π n_i, inner) has: more blocks have nothing to do."""
        return -(-outer // self.rows) * -(-inner // self.inner)


@functools.lru_cache(maxsize=4096)
def specialise(
    shapes: tuple[tuple[int, int], ...], dtype: str, *, inner: int = 1, terms: int = 1, kind: str | None = None
) -> Specialisation | None:
    """The kernel for one pass over adjacent modes of the given shapes (m_i, n_i), or None where there is none.

    inner: trailing entries of x, contiguous, that the pass leaves alone. terms, kind: how many products and what becomes of
    them (ARGUMENTS); by default "one" for one term, else "sum". None: a side above 32 or below 1, another dtype, no modes, or a
    tile that does not fit in shared memory (take fewer modes a pass).
    """
    kind = kind or ("one" if terms == 1 else "sum")
    if dtype not in C_TYPES or not shapes or not all(1 <= side <= SIDES for shape in shapes for side in shape):
        return None
    for room in (PAIR_LIMIT, SHARED_LIMIT) if inner > 1 else (SHARED_LIMIT,):
        for width in _widths(inner, 4 if dtype == "float32" else 8):
            spec = _choice(tuple((m, n) for m, n in shapes), dtype, width, terms, kind)
            padded = [s for pad in PADS if (s := dataclasses.replace(spec, pad=pad)).shared_bytes <= room]
            if padded:
                best = min(padded, key=lambda s: s.wavefronts)
                most = 128 if best.shared_bytes <= PAIR_LIMIT else 256  # the registers of two blocks must fit as well
                return dataclasses.replace(best, threads=min(best.threads, most))
    return None


def _widths(inner: int, itemsize: int) -> list[int]:
    """Trailing entries of a tile, best first: all up to 256 bytes; else 256, 128 or 64 bytes, whichever leaves the fewest idle."""
    whole = [inner] if inner * itemsize <= 256 else []
    parts = [w for w in (256 // itemsize, 128 // itemsize, 64 // itemsize) if w < inner]
    return whole + sorted(parts, key=lambda w: (-(-inner // w) * w, -w))


def _choice(shapes: tuple[tuple[int, int], ...], dtype: str, inner: int, terms: int, kind: str) -> Specialisation:
    """How many modes in registers, rows in a tile, and threads."""
    values = 64 if dtype == "float32" else 32
    groups = _groups(shapes, values)
    held = terms if terms * sum(m * n for m, n in shapes) <= 4096 else 1
    one = Specialisation(dtype, shapes, inner, 1, kind, groups, values, 64, held=held)
    size = max(one.sizes)
    rows = max(1, 2048 // size)
    return dataclasses.replace(one, rows=rows, threads=max(64, -(-rows * size // values // 32) * 32))


def _groups(shapes: tuple[tuple[int, int], ...], values: int) -> tuple[int, ...]:
    """Adjacent modes that meet in registers, from the last: as many as `values` entries allow."""
    groups: list[int] = []
    widest = values + 1  # entries of the stage that grows
    for m, n in reversed(shapes):
        if widest * max(m, n) <= values:
            groups[-1] += 1
            widest *= max(m, n)
        else:
            groups.append(1)
            widest = max(m, n)
    return tuple(groups)


_POWERS = (
    (2, 12),
    (2, 15),
    (3, 7),
    (4, 6),
    (4, 7),
    (5, 4),
    (7, 3),
    (8, 3),
    (8, 4),
    (8, 5),
    (12, 3),
    (16, 2),
    (16, 3),
    (24, 2),
    (32, 2),
    (32, 3),
)
_CASES = (
    *((((p, p),) * d, {}) for p, d in _POWERS),
    *((((p, p),) * d, {"terms": 8}) for p, d in ((8, 3), (8, 4), (16, 2), (16, 3), (32, 2))),
    (((32, 32),) * 2, {"terms": 2}),
    # first passes over rows that do not fit: 8^6, 16^4, 32^4; and the first and the last pass of a sum of them
    *((((p, p),) * d, {"inner": p**d}) for p, d in ((8, 3), (16, 2), (32, 2))),
    (((16, 16),) * 2, {"terms": 4, "kind": "spread"}),
    (((16, 16),) * 2, {"inner": 256, "terms": 4, "kind": "gather"}),
    (((3, 5), (5, 3)), {}),
    (((12, 20), (20, 12)), {}),
    (((8, 16), (8, 16), (8, 16)), {}),
    (((16, 8), (16, 8), (16, 8)), {}),
    (((16, 32), (32, 16)), {"terms": 4}),
)
SHIPPED: tuple[Specialisation, ...] = tuple(
    spec for shapes, how in _CASES for dtype in C_TYPES if (spec := specialise(shapes, dtype, **how)) is not None
)
"""The specialisations that are compiled and held to a budget before each change lands; any other is compiled when it is met."""
