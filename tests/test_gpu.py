"""What only a CUDA device can show: the kernels on the whole grid, streams, graphs, compiled graphs, sizes beyond 2³¹, a full device.

Each test is skipped, and counted, where there is no device (conftest.py). Parity of all classes on the device stands in
test_identities_of_fits.py (B25) and in the self-test below, refusals in test_behaviour.py. `pytest -m gpu` leaves what it measured in
figures/gpu-parity.json.
"""

import functools
import math

import numpy as np
import pytest
from cases import normal
from conftest import check, cuda_devices, equal, host, onto
from cuda_host import MISSING, HostModule

import sepmat as sm
from sepmat._bounds import BOUNDS, componentwise
from sepmat.kernels.cuda import launch
from sepmat.kernels.cuda.specialise import specialise
from sepmat.kernels.kron import laid_out
from studies import _gpu_cases, _gpu_check, _gpu_data, _gpu_device, _gpu_routes, _gpu_tools, _study
from studies._gpu_cases import Check, power
from studies._gpu_routes import KERNEL, MERGED

pytestmark = pytest.mark.gpu

GRID = _gpu_cases.grid()
EVERY = 5  # of the grid here; the study runs all of it
CYCLES = 100_000_000  # some 50 ms, in which whatever does not wait its turn reads too early
CHAINS = {
    "8^4": power(8, 4),
    "5^3": power(5, 3),
    "32^3": power(32, 3),
    "8^6, two passes": power(8, 6),
    "mixed": ((3, 5), (12, 20), (1, 4)),
}


@pytest.fixture(scope="module")
def machine():
    """The device of CuPy, with torch where it sees one."""
    try:
        return _gpu_device.device()
    except _study.StudyError as why:
        pytest.skip(str(why))


@pytest.fixture(params=["planned", KERNEL])
def on_torch(request, torch, monkeypatch):
    """torch, with products by the plan of the library, or by the kernel wherever there is one."""
    from sepmat.kernels.torch import device

    if request.param == KERNEL:
        pytest.importorskip("cupy", reason="cupy is not installed")
        monkeypatch.setattr(device, "LIMITS", _gpu_routes.SLOW_GEMMS)
    return torch


def problem(shapes, rows, terms=0, dtype="float64", seed=0):
    """(factors, x, y) on the host: normal numbers, and y = x (Σ_l F_1l ⊗ … ⊗ F_dl)ᵀ in float64."""
    rng = np.random.default_rng(seed)
    factors = [normal(rng, (terms, *s) if terms else s, dtype) for s in shapes]
    x = normal(rng, (rows, math.prod(n for _, n in shapes)), dtype)
    wide = [F.astype(float) for F in factors]
    return factors, x, (_gpu_data.total if terms else _gpu_data.product)(wide, x.astype(float))


def close(found, factors, x, truth, name):
    """Entry by entry within twice the bound of the product on the CPU."""
    multiply = _gpu_data.total if factors[0].ndim == 3 else _gpu_data.product
    scale = multiply([np.abs(F).astype(float) for F in factors], np.abs(x).astype(float))
    k = sum(F.shape[-1] for F in factors) + (len(factors[0]) if factors[0].ndim == 3 else 0)
    dtype = str(x.dtype)
    check(host(found) - truth, scale * componentwise(k, dtype), BOUNDS["B25"](), dtype, name)


def matrix(factors):
    return sm.Separated(factors) if factors[0].ndim == 3 else sm.Kronecker(*factors)


# --- right numbers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", sorted(GRID))
def test_grid(group, machine):
    """Sides 2 to 128, up to eight factors, mixed shapes, sums; rows, columns, views, unaligned; outputs full of NaN before."""
    checks = [c for c in GRID[group][::EVERY] if machine.torch or c.library != "torch"]
    found = _gpu_check.group(machine, checks, sorted(GRID).index(group))
    assert not found["failed"], found["failures"]


def test_selftest(device):
    """Every class with its products, solves and numbers, within the bounds of the CPU."""
    found = sm.selftest([device])
    assert found.passed, str(found)


@pytest.mark.parametrize("shapes", list(CHAINS.values()), ids=list(CHAINS))
@pytest.mark.parametrize("terms", [0, 3])
def test_rows_and_columns_agree_with_the_cpu(shapes, terms, device):
    """Products from both sides through the operators of the public classes."""
    for dtype in ("float32", "float64"):
        factors, x, truth = problem(shapes, 3, terms, dtype)
        A = matrix([onto(device, F) for F in factors])
        close(onto(device, x) @ A.T, factors, x, truth, f"B25 {device}")
        close((A @ onto(device, np.ascontiguousarray(x.T))).T, factors, x, truth, f"B25 {device}")


@pytest.mark.parametrize("shape", [(0, 64), (3, 0)])
def test_nothing(shape, device):
    m = 0 if 0 in shape[1:] else 8
    A = sm.Kronecker(onto(device, np.ones((8, m))), onto(device, np.ones((8, 8))))
    y = onto(device, np.ones((shape[0], A.shape[1]))) @ A.T
    assert tuple(y.shape) == (shape[0], 64) and not host(y).any()


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_as_on_the_host(machine, dtype, tmp_path):
    """The inputs of the host tests through the same launcher: a few roundings apart, for a device contracts a·b + c."""
    cupy, shapes = machine.cupy, (power(8, 3), power(5, 3), ((3, 5), (12, 20)))
    specs = [specialise(s, dtype, terms=t) for s in shapes for t in (1, 3)]
    module = HostModule(specs, tmp_path)
    for k, spec in enumerate(specs):
        terms = 3 if spec.kind == "sum" else 1
        factors, x, truth = problem(spec.shapes, 5, terms, dtype, k)
        packed = np.concatenate([F.reshape(terms, -1) for F in factors], axis=1)
        mine = np.full(truth.shape, np.nan, dtype)
        launch.launch(module, spec, x.ctypes.data, packed.ctypes.data, mine.ctypes.data, 5, 1, terms)
        given, other = [cupy.asarray(a) for a in (x, packed)], cupy.full(truth.shape, math.nan, dtype)
        launch.launch(launch.module(spec), spec, *(a.data.ptr for a in (*given, other)), 5, 1, terms)
        close(mine, factors, x, truth, "B25 host module")
        close(other, factors, x, truth, "B25 cupy")


@pytest.mark.parametrize("kernel", [KERNEL, MERGED])
def test_the_same_bits_twice(kernel, machine):
    """Nothing is added up in an order that changes."""
    cupy = machine.cupy
    factors, x, _ = problem(power(8, 4), 100, 3, "float32")
    factors, x = [cupy.asarray(F) for F in factors], cupy.asarray(x)
    first = host(_gpu_routes.forced(kernel, factors, x, -1, True))
    for _ in range(5):
        equal(host(_gpu_routes.forced(kernel, factors, x, -1, True)), first, "id 40")


@pytest.mark.parametrize("kernel", [KERNEL, MERGED])
def test_more_than_two_to_the_31_entries(kernel, machine):
    """Offsets are 64 bits wide: the last row is right too."""
    free, _ = machine.cuda.runtime.memGetInfo()
    if free < 32 * 2**30:
        pytest.skip(f"{free / 2**30:.0f} GiB free, 32 needed")
    one = Check(power(8, 4), 0, "float32", 2**19 + 8, "rows", kernel)
    assert one.rows * one.columns > 2**31
    error, parity = _gpu_check.one(machine, one, 1)
    machine.release()
    assert error <= one.limit and parity <= BOUNDS["B25"]()


# --- in their turn --------------------------------------------------------------------------------------------------------------


@functools.cache
def waiting(cupy):
    """A kernel that does nothing for so many cycles."""
    code = 'extern "C" __global__ void wait(long long n) { long long t = clock64(); while (clock64() - t < n) {} }'
    return cupy.RawKernel(code, "wait")


@pytest.mark.parametrize("kernel", ["", KERNEL, MERGED])
@pytest.mark.parametrize("name", list(CHAINS))
def test_cupy_stream(name, kernel, machine):
    """On a stream of one's own everything waits for what was asked before on it: x is written late, and read later."""
    cupy = machine.cupy
    factors, new, truth = problem(CHAINS[name], 16, 0, "float32")
    F, late, x = [cupy.asarray(F) for F in factors], cupy.asarray(new), cupy.zeros(new.shape, "float32")
    product = functools.partial(_gpu_routes.forced, kernel, summed=False) if kernel else None
    (product(F, x, -1) if product else x @ sm.Kronecker(*F).T)  # compiled before
    machine.synchronize()
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        waiting(cupy)((1,), (1,), (np.int64(CYCLES),))
        x[...] = late
        y = product(F, x, -1) if product else x @ sm.Kronecker(*F).T
    stream.synchronize()
    close(y, factors, new, truth, "B25 cupy")


@pytest.mark.parametrize("name", list(CHAINS))
def test_torch_stream(name, on_torch):
    torch = on_torch
    factors, new, truth = problem(CHAINS[name], 16, 0, "float32")
    F, late = [torch.as_tensor(F, device="cuda") for F in factors], torch.as_tensor(new, device="cuda")
    x, side = torch.zeros_like(late), torch.cuda.Stream()
    x @ sm.Kronecker(*F).T
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(CYCLES)
        x.copy_(late)
        y = x @ sm.Kronecker(*F).T
    side.synchronize()
    close(y, factors, new, truth, "B25 torch cuda")


def test_cupy_graph(machine):
    """The kernel is captured once and replayed on other numbers; nothing in it waits or asks for memory of the system."""
    cupy = machine.cupy
    factors, new, truth = problem(power(8, 4), 16, 0, "float32")
    F, stream = laid_out([cupy.asarray(F) for F in factors]), cupy.cuda.Stream(non_blocking=True)
    x, late = cupy.zeros(new.shape, "float32"), cupy.asarray(new)
    machine.synchronize()
    with stream:
        _gpu_routes.forced(KERNEL, F, x, -1, False)
        stream.synchronize()
        stream.begin_capture()
        y = _gpu_routes.forced(KERNEL, F, x, -1, False)
        graph = stream.end_capture()
        x[...] = late
        graph.launch(stream=stream)
    stream.synchronize()
    close(y, factors, new, truth, "B25 cupy")


@pytest.mark.parametrize("terms", [0, 3])
def test_torch_graph(terms, on_torch):
    torch = on_torch
    factors, new, truth = problem(power(8, 4), 16, terms, "float32")
    A = matrix([torch.as_tensor(F, device="cuda") for F in factors])
    x, side = torch.zeros(new.shape, device="cuda"), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        x @ A.T
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = x @ A.T
    x.copy_(torch.as_tensor(new))
    graph.replay()
    torch.cuda.synchronize()
    close(y, factors, new, truth, "B25 torch cuda")


# --- torch: gradients, compiled graphs, batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [power(3, 2), ((2, 3), (3, 2), (2, 2))], ids=str)
@pytest.mark.parametrize("terms", [0, 2])
def test_gradients(shapes, terms, on_torch):
    """First and second derivatives in x and in every factor, against differences."""
    torch = on_torch
    factors, x, _ = problem(shapes, 2, terms)
    leaves = [torch.as_tensor(a, device="cuda").requires_grad_() for a in (x, *factors)]

    def product(x, *factors):
        return x @ matrix(list(factors)).T

    assert torch.autograd.gradcheck(product, leaves)
    assert torch.autograd.gradgradcheck(product, leaves)


@pytest.mark.slow  # the compiler of a device takes its time
@pytest.mark.filterwarnings("ignore")  # of torch, about what it traces, and that it would like to round
def test_compiled_in_one_graph(on_torch):
    torch = on_torch
    factors, x, truth = problem(power(8, 3), 16, 0, "float32")
    F = [torch.as_tensor(F, device="cuda").requires_grad_() for F in factors]
    given = torch.as_tensor(x, device="cuda").requires_grad_()

    def product(x, *factors):
        return x @ sm.Kronecker(*factors).T

    found, plain = torch.compile(product, fullgraph=True)(given, *F), product(given, *F)
    close(found, factors, x, truth, "B25 torch cuda")
    g = torch.as_tensor(np.random.default_rng(1).standard_normal(truth.shape), dtype=torch.float32, device="cuda")
    for mine, other in zip(
        torch.autograd.grad(found, [given, *F], g), torch.autograd.grad(plain, [given, *F], g), strict=True
    ):
        check(host(mine - other), float(other.norm()), 100, "float32", "torch.compile on a device")


def test_a_batch_of_calls(on_torch):
    """torch.vmap over x."""
    torch = on_torch
    factors, x, truth = problem(power(8, 3), 12, 0, "float32")
    A = sm.Kronecker(*(torch.as_tensor(F, device="cuda") for F in factors))
    y = torch.vmap(lambda x: x @ A.T)(torch.as_tensor(x, device="cuda").reshape(3, 4, -1))
    close(y.reshape(truth.shape), factors, x, truth, "B25 torch cuda")


@pytest.mark.parametrize("terms", [1, 8])
@pytest.mark.parametrize("rows", [64, 8192])
def test_layers_in_half_precision(rows, terms, torch):
    """d = 1024 in bfloat16 and float16: formed, or in two GEMMs; sums are kept in float32 (B24)."""
    for dtype, unit in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        factors, x, _ = problem(power(32, 2), rows, terms, "float32")
        F, given = ([torch.as_tensor(a, device="cuda").to(dtype) for a in part] for part in (factors, [x]))
        y = given[0] @ sm.Separated(F).T
        assert y.dtype == dtype
        chosen = _gpu_data.some(rows, 1024)
        wide = [host(a.double()) for a in F]
        rowwise = host(given[0][chosen].double())
        truth, scale = _gpu_data.total(wide, rowwise), _gpu_data.total([np.abs(a) for a in wide], np.abs(rowwise))
        check(host(y[chosen].double()) - truth, scale, 4, unit, "half precision on a device")


# --- what goes wrong --------------------------------------------------------------------------------------------------------------


def test_two_devices(machine):
    """On another device than the current one; arrays of two devices do not mix."""
    if cuda_devices() < 2:
        pytest.skip("one CUDA device")
    cupy = machine.cupy
    factors, x, truth = problem(power(8, 3), 7, 0, "float32")
    with cupy.cuda.Device(1):
        A, there = sm.Kronecker(*map(cupy.asarray, factors)), cupy.asarray(x)
        y = there @ A.T
        assert y.device.id == 1
        close(y, factors, x, truth, "B25 cupy")
    with pytest.raises(sm.DTypeError, match="mixed devices"):
        cupy.asarray(x) @ A.T


def test_cupy_out_of_memory(machine):
    """A clear error, and the matrix goes on."""
    cupy, pool = machine.cupy, machine.cupy.get_default_memory_pool()
    factors, x, truth = problem(power(8, 4), 2048, 0, "float32")
    A, given = sm.Kronecker(*map(cupy.asarray, factors)), cupy.asarray(x)
    machine.release()
    try:
        pool.set_limit(size=pool.total_bytes() + 2**20)
        with pytest.raises(sm.BackendError, match=r"no room on the device.*Multiply fewer rows"):
            given @ A.T
    finally:
        pool.set_limit(size=0)
    close(given @ A.T, factors, x, truth, "B25 cupy")


def test_torch_out_of_memory(torch):
    factors, x, truth = problem(power(8, 4), 2048, 0, "float32")
    A = sm.Kronecker(*(torch.as_tensor(F, device="cuda") for F in factors))
    given = torch.as_tensor(x, device="cuda")
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    try:
        room = torch.cuda.memory_reserved() + 2**20
        torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
        with pytest.raises(sm.BackendError, match=r"no room on the device.*Multiply fewer rows"):
            given @ A.T
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    close(given @ A.T, factors, x, truth, "B25 torch cuda")


def test_a_kernel_that_does_not_compile(machine, monkeypatch):
    """What the compiler says reaches the user, and the next product is right."""
    cupy = machine.cupy
    factors, x, truth = problem(((7, 7), (3, 3)), 7, 0, "float32")
    F, given = [cupy.asarray(F) for F in factors], cupy.asarray(x)
    module = launch._module
    monkeypatch.setattr(launch, "_module", lambda device, spec: cupy.RawModule(code="not C", options=spec.options))
    with pytest.raises(sm.BackendError, match="does not compile"):
        _gpu_routes.forced(KERNEL, F, given, -1, False)
    monkeypatch.setattr(launch, "_module", module)
    close(_gpu_routes.forced(KERNEL, F, given, -1, False), factors, x, truth, "B25 cupy")


@pytest.mark.slow  # each tool runs every instruction of the kernels under its eyes
@pytest.mark.timeout(2 * _gpu_tools.LIMIT)
@pytest.mark.parametrize("tool", _gpu_tools.SANITIZERS)
def test_sanitizer(tool, machine):
    found = _gpu_tools.sanitized(tool)
    if "out" in found:
        pytest.skip(f"compute-sanitizer: {found['out']}")
    assert found["findings"] == 0 and found["status"] == 0, found
