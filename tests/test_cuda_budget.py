"""The gate of the compiler: every shipped kernel for every architecture, against the committed registers and shared memory."""

import importlib.util

import cuda_budget
import pytest

from sepmat.kernels.cuda.specialise import SHARED_LIMIT, SHIPPED


def nvrtc():
    """The compiler that CuPy uses; the test is skipped, with the reason, where its wheel is not installed."""
    reason = "NVRTC is not installed: pip install 'sepmat[gpu-check]'"
    if not importlib.util.find_spec("cuda"):
        pytest.skip(reason)
    pytest.importorskip("cuda.bindings.nvrtc", reason=reason)


@pytest.mark.parametrize("spec", SHIPPED, ids=lambda s: s.entry)
def test_within_its_budget(spec):
    """Registers and shared memory as committed, no spills, no stack: `python -m tests.cuda_budget --write` shows the difference."""
    nvrtc()
    known = cuda_budget.load()
    (found,) = cuda_budget.budget([spec]).values()
    assert found == known[spec.entry]


def test_the_budget_is_of_what_is_shipped():
    known = cuda_budget.load()
    assert SHIPPED and sorted(known) == sorted(s.entry for s in SHIPPED) == list(known)
    for row in known.values():
        assert row["shared"] <= SHARED_LIMIT == cuda_budget.ARCHITECTURES["sm_90"] and {"sm_90", "sm_100"} <= set(row)
        for architecture in cuda_budget.ARCHITECTURES:
            registers = row.get(architecture, 0)
            assert registers <= cuda_budget.REGISTERS
            assert -(-registers // 8) * 8 * row["threads"] <= cuda_budget.MULTIPROCESSOR, "a block of it cannot start"


class Text:
    """A kernel that is not one of ours."""

    entry, options, threads = "wrong", ("-std=c++17",), 32

    def __init__(self, text, shared_bytes=0):
        self.text, self.shared_bytes = text, shared_bytes

    def code(self):
        return self.text


def test_the_gate_closes():
    """A kernel with too many registers for its threads spills, one with a mistake does not compile: both are errors here."""
    nvrtc()

    bad = Text('extern "C" __global__ void wrong(float* y) { y[threadIdx.x] = z; }')
    with pytest.raises(cuda_budget.CompileError, match='identifier "z" is undefined'):
        cuda_budget.compile_kernel(bad, "sm_90")
    spilling = Text(
        'extern "C" __global__ __launch_bounds__(1024) void wrong(float* y, int k) {'
        " float a[96]; for (int i = 0; i < 96; ++i) a[i] = y[i * 1024 + threadIdx.x];"
        " for (int i = 0; i < 96; ++i) for (int j = 0; j < 96; ++j) a[i] += a[j] * a[(i + j) % 96];"
        " for (int i = 0; i < 96; ++i) y[i * 1024 + threadIdx.x] = a[(i + k) % 96]; }"
    )
    with pytest.raises(cuda_budget.CompileError, match="wrong on sm_80"):
        cuda_budget.budget([spilling])


def test_reports_are_read():
    """The numbers of the right entry, spills of both directions; a report without them is an error, not a zero."""
    one = "Function properties for a\n 8 bytes stack frame, 12 bytes spill stores, 4 bytes spill loads\n : Used 40 registers, used 1 barriers\n"
    log = f"info: Compiling entry function 'b' for 'sm_90'\n{one.replace('40', '41')}info: Compiling entry function 'a' for 'sm_90'\n{one}"
    assert cuda_budget.report(log, "a") == {"registers": 40, "stack": 8, "spills": 16}
    assert cuda_budget.report(log, "b")["registers"] == 41
    for text in (log.replace("Used 40", "Used"), log.replace("spill stores", ""), ""):
        with pytest.raises(cuda_budget.CompileError, match="no report on a"):
            cuda_budget.report(text, "a")


def test_shared_memory_of_other_architectures():
    """What only fits in newer ones has no row for an older one."""
    nvrtc()
    spec = Text('extern "C" __global__ void wrong(float* y) { y[0] = 1; }', 200_000)
    (row,) = cuda_budget.budget([spec]).values()
    assert "sm_80" not in row and "sm_90" in row
