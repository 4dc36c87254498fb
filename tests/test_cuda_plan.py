"""Plans for a GPU: floors, passes and merges against the derived tables, and the choice of the kernel. No device, no library."""

import dataclasses
import itertools
import math

import pytest

from sepmat.kernels.cuda.plan import H100, H200, MARGIN, REAL, SIZE, Limits, chain_flops, compulsory, floor, plan
from sepmat.kernels.cuda.specialise import SHARED_LIMIT

# P^N, floor, N passes, 2N passes with a copy each, merged to 64: µs on an H100, 1024 rows in float32
TABLE = {
    (2, 15): (89, 1342, 2684, 268),
    (4, 7): (45, 313, 626, 134),
    (8, 3): (1.4, 4.2, 8.4, 2.8),
    (8, 4): (11.2, 45, 89, 22),
    (8, 5): (89, 447, 895, 268),
    (8, 6): (716, 4295, 8590, 2148),
    (16, 3): (11.2, 34, 67, 34),
    (16, 4): (179, 716, 1432, 716),
    (32, 3): (107, 268, 537, 268),
    (64, 2): (18, 22, 45, 22),
    (64, 3): (1718, 2148, 4295, 2148),
    (128, 2): (143, 143, 232, 143),
}
ROWS = 1024


def square(side, modes):
    return ((side, side),) * modes


@pytest.mark.parametrize(("side", "modes"), TABLE)
def test_floors_of_the_table(side, modes):
    least, unfused, shuffle, merged = (t * 1e-6 for t in TABLE[side, modes])
    shapes, size = square(side, modes), side**modes
    close = {"rel": 0.05}
    assert floor(shapes, ROWS, "float32") == pytest.approx(least, **close)
    alone = Limits()
    steps = [plan(((side, side),), ROWS * size // side, "float32", kernels=False).floor] * modes
    assert sum(steps) == pytest.approx(unfused, **close)
    copies = modes * 8 * ROWS * size / alone.bandwidth
    assert sum(steps) + copies == pytest.approx(shuffle, **close) or side == 128  # the last step needs no copy
    p = plan(shapes, ROWS, "float32", kernels=False)
    assert p.floor == pytest.approx(merged, **close)
    assert all(m <= 64 or j == i + 1 for (i, j), m in ((s.modes, s.m) for s in p.passes))
    assert p.route == "merged" and p.seconds > p.floor


def test_longer_merges_in_lower_precision():
    """Two passes for 8⁵ and 8⁶ where the GEMMs run on tensor cores, three otherwise."""
    for modes in (5, 6):
        assert [len(plan(square(8, modes), ROWS, d).passes) for d in ("tf32", "bfloat16")] == [2, 2]
        assert len(plan(square(8, modes), ROWS, "float32", kernels=False).passes) == 3


def every_grouping(d):
    for cuts in itertools.product([False, True], repeat=d - 1):
        ends = [k + 1 for k, cut in enumerate(cuts) if cut] + [d]
        yield tuple(zip([0, *ends[:-1]], ends, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "tf32"])
@pytest.mark.parametrize("terms", [1, 5])
@pytest.mark.parametrize("shapes", [square(4, 6), ((4, 4), (8, 8), (2, 2), (16, 16), (32, 32)), square(3, 5)], ids=str)
def test_merged_passes_are_the_cheapest(shapes, terms, dtype):
    """Against every way to cut square factors into groups."""
    side = 512 if dtype == "tf32" else 64
    limits = dataclasses.replace(H100, launch=1e-6)

    def seconds(groups):
        total = 0.0
        for i, j in groups:
            n = math.prod(s for s, _ in shapes[i:j])
            if j - i > 1 and n > side:
                return math.inf
            whole, read, written = j - i == len(shapes), terms if j < len(shapes) else 1, terms if i else 1
            size = ROWS * math.prod(s for s, _ in shapes)
            used = 1 if whole else terms
            moved = SIZE[dtype] * ((read + written) * size + used * n * n) / limits.bandwidth / limits.streamed
            work = 2 * n * size * used * REAL.get(dtype, 1) / limits.rate(dtype)
            total += max(moved, work) + limits.launch * (terms if min(read, written) > 1 else 1)
        return total

    best = min(seconds(groups) for groups in every_grouping(len(shapes)))
    found = plan(shapes, ROWS, dtype, terms, limits=limits, kernels=False)
    assert found.seconds == pytest.approx(best)
    assert seconds(found.groups) == pytest.approx(best)


def test_order_of_rectangular_factors():
    """The factor that shrinks runs first, wherever it stands, and sizes follow."""
    shapes = ((70, 70), (3, 200), (200, 3))
    p = plan(shapes, 10, "float32", columns=7, kernels=False)
    assert [s.modes for s in p.passes] == [(1, 2), (0, 1), (2, 3)]
    assert [(s.left, s.right) for s in p.passes] == [(700, 21), (10, 63), (2100, 7)]
    assert p.flops == chain_flops(shapes, [1, 0, 2]) * 70
    assert all(chain_flops(shapes, [1, 0, 2]) <= chain_flops(shapes, o) for o in itertools.permutations(range(3)))


def test_bytes_and_flops():
    p = plan(square(8, 4), 100, "float64", columns=3, kernels=False)
    assert p.bytes == 8 * (4 * 8**4 * 300 + 2 * 64**2) and p.flops == 2 * 2 * 64 * 8**4 * 300
    assert compulsory(square(8, 4), 100, "float64", 2, 3) == 8 * (2 * 8**4 * 300 + 2 * 4 * 64)
    assert plan(square(2, 3), 5, "complex128").flops == 4 * plan(square(2, 3), 5, "float64", kernels=False).flops


# --- the kernel ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "modes"), [(8, 3), (8, 4), (8, 5), (8, 6), (16, 3), (16, 4), (32, 3), (5, 4), (3, 7)])
def test_small_sides_meet_the_kernel(side, modes):
    p, merged = (plan(square(side, modes), ROWS, "float32", kernels=k) for k in (True, False))
    assert "kernel" in p.route and p.seconds * (1 + MARGIN) < merged.seconds
    assert len(p.passes) == (2 if side**modes > 40_000 or side == 32 else 1) <= len(merged.passes)
    assert sum(j - i for i, j in (s.modes for s in p.passes)) == modes
    for s in p.passes:
        assert (s.specialisation is None) == (s.kind == "merged")
        if s.specialisation:
            assert s.specialisation.shared_bytes <= SHARED_LIMIT and s.specialisation.inner in (1, 16, 32, 64, s.right)


@pytest.mark.parametrize(
    ("shapes", "dtype"),
    [(square(64, 2), "float32"), (square(64, 3), "float64"), (square(128, 2), "float32"), (square(8, 2), "float32")]
    + [(square(8, 5), d) for d in ("complex64", "complex128", "tf32", "bfloat16", "float16")],
    ids=str,
)
def test_what_stays_with_gemms(shapes, dtype):
    assert plan(shapes, ROWS, dtype).route == "merged"


@pytest.mark.parametrize(
    "limits", [H100, H200, Limits(launch=0.0), Limits(issued=0.1), Limits(bandwidth=1e14)], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_never_the_kernel_where_the_merged_plan_is_as_good(dtype, limits):
    """Within 5 % or better: GEMMs. Over sides, modes, rows and terms, and on machines where the kernel is slow."""
    chosen = set()
    for side, modes, rows, terms in itertools.product((2, 3, 8, 16, 31, 32, 33), (1, 2, 4, 5), (1, 64, 4096), (1, 8)):
        p, merged = (plan(square(side, modes), rows, dtype, terms, limits=limits, kernels=k) for k in (True, False))
        chosen.add(p.route)
        assert p == merged or p.seconds * (1 + MARGIN) < merged.seconds
        assert p.seconds >= p.floor and p.rows == rows
    assert "merged" in chosen
    if limits in (H100, H200):
        assert "kernel" in chosen


def test_sums_share_reads():
    """R = 8: one pass that reads x once where the rows fit; first spread, then gathered where they do not; one GEMM where all merges."""
    (whole,) = plan(square(32, 2), 4096, "float32", 8).passes
    assert whole.specialisation.kind == "sum" and whole.floor == pytest.approx(72e-6, rel=0.01)
    assert whole.bytes == 4 * (2 * 4096 * 1024 + 8 * 2 * 32 * 32)
    kinds = [s.specialisation.kind for s in plan(square(16, 6), 1, "float32", 8).passes]
    assert kinds[0] == "spread" and kinds[-1] == "gather" and set(kinds[1:-1]) <= {"one"}
    (single,) = plan(square(8, 2), 4096, "float32", 8).passes
    assert single.kind == "merged" and single.flops == 2 * 64 * 64 * 4096
    first, last = plan(square(64, 2), 4096, "float32", 8).passes
    assert first.bytes == 4 * (9 * 4096**2 + 8 * 64**2) and last.modes == (0, 1)


def test_few_rows_leave_the_machine_idle():
    """One long row is one tile: no kernel takes all of it while 131 multiprocessors wait."""
    assert len(plan(square(8, 5), 1, "float32").passes) > 1
    assert len(plan(square(8, 5), 1024, "float32").passes) == 1


def test_h200_takes_what_its_memory_takes():
    """Memory-bound passes take 0.70 of the time."""
    slow, fast = (plan(square(8, 4), 65536, "float32", limits=l) for l in (H100, H200))
    assert fast.floor / slow.floor == pytest.approx(0.70, abs=0.01)


@pytest.mark.parametrize("shapes", [((3, 0), (2, 2)), ((0, 3), (2, 2)), ((1, 1),), ((0, 0),)], ids=str)
@pytest.mark.parametrize(("rows", "terms"), [(0, 1), (3, 1), (3, 2), (0, 0)])
def test_empty_and_trivial_sizes(shapes, rows, terms):
    p = plan(shapes, rows, "float32", terms)
    assert sum(j - i for i, j in (s.modes for s in p.passes)) == len(shapes) and math.isfinite(p.seconds)


def test_plans_are_remembered():
    assert plan(square(8, 4), 7, "float32") is plan(square(8, 4), 7, "float32")
