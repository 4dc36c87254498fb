"""The GPU kernel without a GPU: its own text, compiled for the host, against the product mode by mode in a wider precision.

Each problem runs with the threads of a block in three orders on shared memory full of NaN. Sanitizers look for races and for accesses
out of bounds. The harness is held to account by bugs planted in the source, and every line of the kernel must have run.
"""

import collections
import dataclasses
import json
import mmap
import shutil
import subprocess

import numpy as np
import pytest
from conftest import check
from cuda_host import MISSING, HostModule, HostProgram
from cuda_host.problems import kron, problem

from sepmat.kernels.cuda.specialise import ARGUMENTS, SHARED_LIMIT, SHIPPED, SIDES, SOURCE, Specialisation, specialise

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
DTYPES = ("float32", "float64")
F32, F64 = DTYPES
QUICK = ("-O1",)


def powers(*sides_and_modes, dtypes=DTYPES, **how):
    return [problem(((p, p),) * d, dtype, **how) for p, d in sides_and_modes for dtype in dtypes]


def each(*shapes, dtypes=DTYPES, **how):
    return [problem(s, dtype, **how) for s in shapes for dtype in dtypes]


MIXED = ((2, 2), (7, 7), (3, 3), (5, 5)), ((8, 8), (4, 4), (16, 16)), ((12, 20), (1, 4)), ((1, 3), (2, 1), (1, 1))
NARROW, WIDE = ((3, 5), (5, 3)), ((5, 3), (2, 9), (4, 4))
# Each unit is one translation unit.
UNITS = {
    "powers of two": lambda: (
        powers((2, 6), (2, 12), (4, 6), (8, 4), (16, 3), (32, 2)) + powers((8, 5), (2, 15), dtypes=[F32])
    ),
    "other sides": lambda: powers((3, 7), (5, 4), (7, 3), (12, 3), (24, 2), (31, 2), (23, 1)),
    "one mode to many": lambda: [p for d in (1, 3, 5, 7) for p in powers((4, d), (3, d), outer=2, gap=5)],
    "mixed and rectangular": lambda: each(*MIXED, NARROW, ((20, 12), (12, 20)), ((32, 5), (1, 32)), outer=2, gap=3),
    "passes": lambda: (
        each(((8, 8),) * 3, ((16, 16),) * 2, inner=200, outer=2, gap=7)
        + each(NARROW, WIDE, MIXED[0], inner=7)
        + each(((32, 32),) * 2, WIDE, inner=33, outer=1)
    ),
    "sums of 1 to 8 terms": lambda: [
        *(p for terms in range(2, 9) for p in powers((4, 3), terms=terms)),
        *powers((4, 3), kind="sum"),
        *powers((32, 2), (8, 4), terms=8, outer=2),
        *powers((16, 2), terms=5, held=2),
        *each(NARROW, WIDE, terms=3, gap=2),
    ],
    "sums in passes": lambda: [
        p
        for kind in ("sum", "spread", "gather", "one")
        for p in each(NARROW, ((8, 8),) * 2, terms=3, kind=kind, inner=20, gap=1) + each(WIDE, terms=2, kind=kind)
    ],
    "transposed": lambda: each(NARROW, WIDE, *MIXED, transposed=True) + each(WIDE, terms=3, inner=5, transposed=True),
}
ORDERS = (("ascending", 0), ("descending", 0), ("random", 1))


def run(module, p, grid=2):
    """One launch on fewer blocks than there are tiles, wherever there are any; y."""
    function = module.get_function(p.spec.entry)
    function.max_dynamic_shared_size_bytes = p.spec.shared_bytes
    function((grid,), (p.spec.threads,), p.args(), shared_mem=p.spec.shared_bytes)
    return p.y


@pytest.mark.slow  # a compiler
@pytest.mark.parametrize("unit", UNITS)
def test_against_the_product_mode_by_mode(unit, tmp_path):
    problems = UNITS[unit]()
    module = HostModule(list({p.spec: None for p in problems}), tmp_path, flags=QUICK)
    for p in problems:
        for module.order, module.seed in ORDERS:
            p.hold(run(module, p), check)


# sanitizers -----------------------------------------------------------------------------------------------------------------


def sanitized():
    """A chain that works in place, a sum between three buffers, and a rectangular pass: small ones, several tiles a block."""
    return [
        problem(((8, 8),) * 3, F32, outer=5, rows=1),
        problem(((4, 4),) * 3, F32, outer=5, terms=3, rows=1, held=1),
        problem(NARROW, F64, outer=3, inner=20, gap=1, transposed=True),
    ]


def program(problems, folder, *sanitizers, **how):
    """The kernels as a program under sanitizers; skipped where the compiler has none of them."""
    flags = ("-g", "-O0", f"-fsanitize={','.join(sanitizers)}", "-fno-sanitize-recover=all")
    try:
        return HostProgram([p.spec for p in problems], folder, flags, **how)
    except RuntimeError as error:
        if "cannot find" in str(error):
            pytest.skip(f"g++ has no library for -fsanitize={sanitizers[0]}")
        raise


def watched(threads, p, grid):
    """One thread for each CUDA thread, under the thread sanitizer; skipped where it does not start."""
    y, said = threads.run(p.spec, grid, p.args(), "threads")
    if "FATAL: ThreadSanitizer" in said:
        pytest.skip(f"the thread sanitizer does not start here: {said.strip()}")
    return y, said


@pytest.mark.slow  # the thread sanitizer
def test_no_races_between_threads(tmp_path):
    problems = sanitized()
    threads = program(problems, tmp_path, "thread")
    for p in problems:
        y, said = watched(threads, p, 2)
        assert not said, said
        p.hold(y, check)


@pytest.mark.slow  # the address sanitizer
def test_no_access_out_of_bounds_no_undefined_behaviour(tmp_path):
    problems = sanitized()
    guarded = program(problems, tmp_path, "address", "undefined")
    for p in problems:
        for order in ("random", "threads"):
            y, said = guarded.run(p.spec, 2, p.args(), order)
            assert y is not None, said
            p.hold(y, check)


# planted bugs ---------------------------------------------------------------------------------------------------------------

AFTER_A_STAGE = "        __syncthreads();\n        stages_before_the_last<K + 1>"
AFTER_THE_LAST = "            });\n            __syncthreads();"
BUGS = {  # what is replaced, by what, and in which problem it must show
    "no barrier after the load": ("if (take_x || take_F) __syncthreads();", "", "chain"),
    "no barrier between stages": (AFTER_A_STAGE, AFTER_A_STAGE.partition("\n")[2], "chain"),
    "no barrier before the next tile": (AFTER_THE_LAST, AFTER_THE_LAST.replace("__syncthreads();", ""), "chain"),
    "no barrier before y is stored": (AFTER_THE_LAST, AFTER_THE_LAST.replace("__syncthreads();", ""), "rows"),
    "no barrier after y is stored": ("give_y();\n                __syncthreads();", "give_y();", "spread"),
    "threads that return early": (
        "    KRON_SHARED(T, shared);",
        "if (threadIdx.x > 60) return; KRON_SHARED(T, shared);",
        "chain",
    ),
    "threads that skip a barrier": ("if (take_x || take_F)", "if (threadIdx.x % 2)", "chain"),
    "one too far in a factor": ("F[(first + i) * n + j]", "F[(first + i) * n + j + 1]", "chain"),
    "holes in other places": ("return padded(start) + j * (STEP +", "return padded(start) + j * (STEP + 1 +", "chain"),
    "a row behind the last one": ("(ROWS == 1 || row < rows)", "(ROWS == 1 || row <= rows)", "rows"),
    "a column behind the last one": ("column < columns);", "column <= columns);", "pass"),
    "the last piece left out": ("S::FULL || piece(s) < S::PIECES", "piece(s) + 1 < S::PIECES", "chain"),
    "a write behind shared memory": (
        "FROM = PLACES[K], TO = PLACES[K + 1]",
        "FROM = PLACES[K] + 64, TO = PLACES[K + 1] + 64",
        "chain",
    ),
    "tiles left out": ("number += gridDim.x", "number += gridDim.x + 1", "chain"),
    "32 bits for the place of a row of x": ("{x + row * x_outer", "{x + int(row * x_outer)", "far"),
    "a sum on top of what was there": ("ADD && term ?", "ADD ?", "sum"),
    "a sum without one term": ("ADD && term ?", "ADD && term > 1 ?", "sum"),
    "factors of the term before": ("take_F = !known || terms > HELD", "take_F = !known", "sum"),
    "one x for all terms": ("!KEEP || term == 0", "term == 0", "gather"),
    "transposed the other way": (
        "(e - start) % n * m + (e - start) / n",
        "(e - start) % m * n + (e - start) / m",
        "pass",
    ),
}


def rows_far_apart():
    """Two rows of x 2^32 entries apart, in memory of which but two pages exist."""
    p = problem(((4, 4),) * 2, F32, outer=2, rows=1)
    try:
        far = mmap.mmap(
            -1, 4 * (2**32 + 16), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        )
    except OSError as error:
        pytest.skip(f"no 16 GiB of addresses: {error}")
    place = np.frombuffer(far, np.float32)
    place[:16], place[-16:] = p.x[0]
    args = p.args

    def sparse():
        _, factors, y, *numbers = args()
        numbers[3] = np.int64(2**32)
        return (np.uint64(place.ctypes.data), factors, y, *numbers)

    p.args = sparse
    return p


PLANTED = {
    "chain": lambda: problem(((8, 8), (4, 4), (8, 8)), F32, outer=3, rows=1),
    "rows": lambda: problem(((3, 3),) * 2, F64, outer=2),
    "pass": lambda: problem(NARROW, F32, outer=2, inner=100, gap=3, transposed=True),
    "sum": lambda: problem(((4, 4),) * 3, F32, outer=3, terms=3, rows=1, held=2),
    "gather": lambda: problem(NARROW, F32, terms=2, kind="gather"),
    "spread": lambda: problem(((3, 3),) * 2, F64, outer=2, terms=2, kind="spread"),
    "far": rows_far_apart,
}


@dataclasses.dataclass(frozen=True)
class Planted(Specialisation):
    """The same under a name of its own, so that one translation unit may hold many bugs."""

    bug: int = 0

    @property
    def entry(self):
        return f"{super().entry}_bug{self.bug}"


def planted(bug, folder):
    """A problem, and the source with a bug in it."""
    old, new, name = BUGS[bug]
    text, p, number = SOURCE.read_text(), PLANTED[name](), list(BUGS).index(bug)
    assert old in text, f"the source has changed: where is {old!r} now?"
    p.spec = Planted(**vars_of(p.spec), bug=number)
    source = folder / f"bug{number}.cuh"
    source.write_text(text.replace(old, new))
    return p, source


def vars_of(spec):
    return {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}


def complaints(module, p):
    """What the harness has to say in three orders, on one block."""
    said = []
    for module.order, module.seed in ORDERS:
        try:
            p.hold(run(module, p, grid=1), lambda *claim: check(*claim[:4]))  # outside the record of the bounds
        except (AssertionError, RuntimeError) as error:
            said.append(f"{module.order}: {error}")
    return said


@pytest.mark.slow  # twenty forms of the kernel, compiled
def test_every_planted_bug_is_caught(tmp_path):
    found = {bug: planted(bug, tmp_path) for bug in BUGS}
    sources = {p.spec.entry: source for p, source in found.values()}
    module = HostModule([p.spec for p, _ in found.values()], tmp_path, flags=("-O0", "-w"), source=sources)
    said = {bug: complaints(module, p) for bug, (p, _) in found.items()}
    assert not [bug for bug, lines in said.items() if not lines]
    divergent = {bug for bug, lines in said.items() if any("divergent" in line for line in lines)}
    assert divergent == {"threads that return early", "threads that skip a barrier"}
    assert "behind it" in said["a write behind shared memory"][0]


def test_no_alarm_without_a_bug(tmp_path):
    problems = [make() for make in PLANTED.values()]
    module = HostModule([p.spec for p in problems], tmp_path, flags=("-O0",))
    assert not [line for p in problems for line in complaints(module, p)]


@pytest.mark.slow  # the thread sanitizer
def test_races_are_seen(tmp_path):
    found = [planted(bug, tmp_path) for bug in ("no barrier after the load", "no barrier between stages")]
    sources = {p.spec.entry: source for p, source in found}
    threads = program([p for p, _ in found], tmp_path, "thread", source=sources)
    for p, source in found:
        y, said = watched(threads, p, 1)
        assert y is None and "data race" in said and source.name in said, said


def test_reads_out_of_bounds_are_seen(tmp_path):
    p, old = PLANTED["rows"](), "row < rows ? row : rows - 1"
    assert old in SOURCE.read_text()
    (tmp_path / SOURCE.name).write_text(SOURCE.read_text().replace(old, "row < rows ? row : rows"))
    y, said = program([p], tmp_path, "address", source=tmp_path / SOURCE.name).run(p.spec, 1, p.args(), "random")
    assert y is None and "heap-buffer-overflow" in said and SOURCE.name in said, said


# the harness itself, and what it runs -------------------------------------------------------------------------------------------


def test_every_line_of_the_kernel_runs(tmp_path):
    if not shutil.which("gcov"):
        pytest.skip("no gcov")
    problems = [make() for name, make in PLANTED.items() if name != "far"] + [problem(((32, 32),) * 2, F32)]
    module = HostModule([p.spec for p in problems], tmp_path, flags=("-O0", "--coverage", "-DCUDA_HOST_COVERAGE"))
    for p in problems:
        p.hold(run(module, p), check)
    module.library.cuda_host_dump()
    found = subprocess.run(
        ["gcov", "--json-format", "--stdout", *tmp_path.glob("*.gcda")], capture_output=True, cwd=tmp_path
    )
    files = [f for line in found.stdout.splitlines() for f in json.loads(line)["files"] if f["file"] == str(SOURCE)]
    runs = collections.Counter()
    for line in (line for file in files for line in file["lines"]):
        runs[line["line_number"]] += line["count"]
    assert len(runs) > 60, "gcov knows too few lines"
    assert not [line for line, count in runs.items() if not count]


def test_wrong_launches_are_refused(tmp_path):
    p = problem(((8, 8),) * 3, F32, inner=64, outer=1)
    spec, module = p.spec, HostModule([p.spec], tmp_path, flags=QUICK)
    kernel, args = module.get_function(spec.entry), p.args()
    assert "".join("p" if kind == "pointer" else "i" for _, kind in ARGUMENTS) == kernel.signature
    kernel.max_dynamic_shared_size_bytes = spec.shared_bytes

    def refused(error, match, grid=(1,), block=(spec.threads,), args=args, shared=spec.shared_bytes):
        with pytest.raises(error, match=match):
            kernel(grid, block, args, shared_mem=shared)

    def with_argument(i, value):
        return (*args[:i], value, *args[i + 1 :])

    refused(TypeError, "10 arguments", args=args[:-1])
    refused(TypeError, "argument 3: a 64-bit integer, got int$", args=with_argument(3, 1))
    refused(TypeError, "argument 3: .* got int32", args=with_argument(3, np.int32(1)))
    refused(TypeError, "argument 0: a contiguous float32", args=with_argument(0, p.x.astype(F64)))
    refused(TypeError, "argument 0: .* strides", args=with_argument(0, np.repeat(p.x, 2, -1)[..., ::2]))
    refused(TypeError, "argument 2: .* got int ", args=with_argument(2, p.y.ctypes.data))
    refused(TypeError, "aligned", args=with_argument(2, np.uint64(p.y.ctypes.data + 2)))
    refused(ValueError, "grid", grid=(0,))
    refused(ValueError, "block", block=(spec.threads + 1,))
    refused(ValueError, "are needed", shared=spec.shared_bytes - 4)
    kernel.max_dynamic_shared_size_bytes = SHARED_LIMIT + 4
    refused(ValueError, "on the device", shared=SHARED_LIMIT + 4)
    kernel.max_dynamic_shared_size_bytes = 48 * 1024
    refused(ValueError, "max_dynamic_shared_size_bytes", shared=spec.shared_bytes)
    kernel.max_dynamic_shared_size_bytes = spec.shared_bytes
    kernel((1, 1, 1), (spec.threads, 1), args, shared_mem=spec.shared_bytes)
    p.hold(p.y, check)
    with pytest.raises(KeyError):
        module.get_function("kron")


# sizes ----------------------------------------------------------------------------------------------------------------------------


def test_what_is_shipped():
    """Every entry is a specialisation that fits, has its own name, and reads what lies side by side."""
    assert len({spec.entry for spec in SHIPPED}) == len(SHIPPED) > 50
    for spec in SHIPPED:
        assert spec.shared_bytes <= SHARED_LIMIT and spec.threads <= 1024 and spec.threads % 32 == 0
        assert spec.inner == 1 or spec.inner * spec.itemsize >= 64
        assert spec.wavefronts <= 4 * len(spec.stages), (
            f"{spec.entry}: threads of a warp meet in the banks of shared memory"
        )
    best = {spec.shapes: spec for spec in SHIPPED if spec.dtype == F32 and spec.kind == "one"}
    for shapes in (((8, 8),) * 5, ((8, 8),) * 4, ((4, 4),) * 7, ((32, 32),) * 3):
        assert best[shapes].wavefronts == 2 * len(best[shapes].stages)
        assert best[shapes].in_place and best[shapes].direct
    chain = specialise(((8, 8),) * 5, F32)
    assert chain.groups == (2, 2, 1) and chain.group == 2 and 4 * 8**5 < chain.shared_bytes < 4 * 8**5 * 1.03
    assert not specialise(NARROW, F32, terms=2).in_place
    assert specialise(((2, 32), (32, 2)), F64).rows == 2  # 64 entries at both ends, 1024 between the stages
    assert chain.tiles(1000, 1) == 1000 and specialise(((8, 8),) * 3, F32, inner=100).tiles(3, 100) == 21


def test_what_has_no_kernel():
    assert specialise((), F32) is None
    assert specialise(((SIDES + 1, 4),), F32) is None and specialise(((4, 0),), F32) is None
    assert specialise(((4, 4),), "complex64") is None and specialise(((4, 4),), "float16") is None
    assert specialise(((8, 8),) * 6, F32) is None and specialise(((8, 8),) * 5, F64) is None
    assert specialise(((8, 8),) * 5, F32, terms=2) is None and specialise(((2, 2),) * 12, F64, inner=16) is None


@pytest.mark.parametrize(
    ("inner", "width"), [(1, 1), (7, 7), (16, 16), (33, 33), (64, 64), (65, 16), (100, 16), (120, 64), (512, 64)]
)
def test_trailing_entries_of_a_tile(inner, width):
    """All of them where there are few; else 64 or a part of it, so that few threads idle: 512 entries are 8 tiles of 64."""
    assert specialise(((8, 8),) * 2, F32, inner=inner).inner == width


def test_reference():
    """The reference of this file against the matrix itself."""
    rng = np.random.default_rng(0)
    A, B, x = rng.standard_normal((2, 3)), rng.standard_normal((4, 5)), rng.standard_normal((2, 15, 3))
    check(np.abs(kron([A, B], x) - np.kron(A, B) @ x), 1.0, 200, F64)
