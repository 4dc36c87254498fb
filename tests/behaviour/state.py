"""Threads, interrupts, repeats, processes and devices: rows 48, 51 and 87 to 100."""

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from conftest import host

import sepmat as sm

from .catalogue import S3, K
from .engine import TRUE, Case, Refusal, Skip
from .expected import CLASSES, FITS, built, member

# fmt: off
# one case a line

ROOT = Path(__file__).resolve().parents[2]
FIT = np.random.default_rng(5).standard_normal((6, 6))
TERMS = np.random.default_rng(6).standard_normal((5, 3, 3))

REPEATED = {
    **FITS,
    "low rank": lambda M: sm.nearest_low_rank(M, 2),
    "compress": lambda M: sm.compress(sm.Separated([M[None, :3, :3], M[None, 3:, 3:], M[None, :3, 3:]]), rank=1),
    "factor_shapes": lambda M: sm.factor_shapes(M, rank=1)[0],
    "approximate": lambda M: sm.approximate(M, 30, structures=["toeplitz", "kronecker"])[0],
    "expm": lambda M: sm.expm(sm.KroneckerSum(0.1 * M, 0.1 * M), 1e-6),
    "power_iteration": lambda M: sm.power_iteration(sm.KroneckerSum(M[:3, :3] @ M[:3, :3].T, M[3:, 3:] @ M[3:, 3:].T), tol=0.1),
}


def threads(b, name, count):
    """8 threads on one matrix that nobody has used before: the bits of one thread."""
    A, x = built(b, name), b(np.ones((member(name)[1].shape[1], 3)))
    expected = host(built(b, name) @ x), host(built(b, name).T.apply(b.xp.asarray(host(built(b, name) @ x).T.copy())))
    rows = b.xp.asarray(expected[0].T.copy())
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: (host(A @ x), host(A.T.apply(rows))), range(count)))
    return all(np.array_equal(y, expected[0]) and np.array_equal(z, expected[1]) for y, z in results)


def leaves(found):
    return [host(a) for a in (found.vector if hasattr(found, "vector") else found.matrix).arrays()]


def repeated(b, f):
    """Twice the same call, twice the same bits, whatever the global random state is."""
    M = b(FIT)
    first = leaves(f(M))
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002 - that it is not read is what is asked
    second = leaves(f(M))
    np.random.set_state(state)  # noqa: NPY002
    return len(first) == len(second) and all(np.array_equal(x, y) for x, y in zip(first, second, strict=True))


def interrupted(b, work, check):
    """Ctrl-C at any function call on the way leaves a matrix, and the library, that work."""

    class Counter:
        left = 0

    def count(frame, event, argument):
        # a generator that is closed calls too, and cannot pass an exception on
        if event == "call" and "sepmat" in frame.f_code.co_filename and not frame.f_code.co_flags & 0x20:
            Counter.left -= 1
            if Counter.left == 0:
                raise KeyboardInterrupt

    seen, k, before = 0, 1, sys.getprofile()
    while True:
        Counter.left = k
        subject = work.make(b)
        sys.setprofile(count)
        try:
            work.call(subject, b)
        except KeyboardInterrupt:
            seen += 1
        finally:
            sys.setprofile(before)
        if not check(subject, b):
            return False
        if Counter.left > 0:
            return seen > 3
        k = k + 1 if k < 12 else 2 * k


class Product:
    """The first product of a matrix, which fills what it remembers."""

    def __init__(self, name):
        self.name = name

    def make(self, b):
        return built(b, self.name)

    def call(self, A, b):
        A @ b(np.ones(A.shape[1]))

    def check(self, A, b):
        x = b(np.ones(A.shape[1]))
        return bool(np.array_equal(host(A @ x), host(built(b, self.name) @ x)))


class Fitting:
    """A fit: what it was given is whole, and the next call gives what it always gives."""

    def __init__(self, f):
        self.f, self.expected = f, {}

    def make(self, b):
        return b(FIT)

    def call(self, M, b):
        self.f(M)

    def check(self, M, b):
        now = leaves(self.f(b(FIT)))
        before = self.expected.setdefault(b.name, now)
        return bool(np.array_equal(host(M), FIT)) and all(
            np.array_equal(x, y) for x, y in zip(now, before, strict=True)
        )


def python(code, *options, **environment):
    """The output of a fresh interpreter; an error there is one here."""
    run = subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    if run.returncode:
        raise RuntimeError(run.stderr[-400:])
    return run.stdout.strip()


FORK = """
import os, sepmat as sm, numpy as np
A = sm.Circulant(np.arange(64.0)); x = np.ones(64); y = A @ x
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, (A @ x).tobytes()); os._exit(0)
os.wait(); print(os.read(read, 10**6) == y.tobytes())
"""
SPAWN = """
import multiprocessing, numpy as np, sepmat as sm
def work(A): return A @ np.ones(8)
if __name__ == "__main__":
    import sys
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        A = sm.Kronecker(np.eye(2), np.arange(16.0).reshape(4, 4))
        print(np.array_equal(pool.apply(np.matmul, (np.eye(2), np.ones(2))), np.ones(2)) and pool.apply(A.__matmul__, (np.ones(8),)).tobytes() == (A @ np.ones(8)).tobytes())
"""
BLOCKED = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "cupy", "matplotlib", "tqdm", "safetensors"): raise ImportError(name)
sys.meta_path.insert(0, Nothing())
import numpy as np, sepmat as sm
A = sm.Toeplitz([2.0, 1.0]); sm.solve(A, A @ np.ones(2)); sm.approximate(np.eye(4), 4)
try:
    import sepmat.nn
except sm.BackendError as e:
    print("sepmat[torch]" in str(e))
"""
STATE = """
import sys, warnings, numpy as np, scipy.linalg, scipy.fft, scipy.special, array_api_compat.numpy
before = (np.geterr(), np.get_printoptions(), list(warnings.filters), sys.getrecursionlimit(), np.random.get_state()[1].tobytes())
import sepmat
print(before == (np.geterr(), np.get_printoptions(), list(warnings.filters), sys.getrecursionlimit(), np.random.get_state()[1].tobytes()) and "torch" not in sys.modules and "cupy" not in sys.modules and "matplotlib" not in sys.modules)
"""


def no_cuda(b):
    if b.name == "torch":
        import torch

        if torch.cuda.is_available():
            raise Skip("there is a CUDA device")
    return K(b).to_device("cuda:0")


def parity(b):
    """100: on a stream of one's own the bits are those of the default stream."""
    cupy = b.xp
    A, x = K(b), b(np.ones(12))
    expected = host(A @ x)
    with cupy.cuda.Stream(non_blocking=True) as stream:
        y = K(b) @ x
        stream.synchronize()
    return bool(np.array_equal(host(y), expected))


def cases():
    def state(row, what, call, promise=TRUE, kind="state", on=Case.on):
        return Case(row, what, call, promise, "threads, processes, devices", kind, on)

    numpy = ("numpy",)
    for name in CLASSES:
        for count in (40,):
            yield state("7.87", f"8 threads on {name}", lambda b, n=name, c=count: threads(b, n, c if b.name != "array_api_strict" else 16))
        yield state("7.95", f"Ctrl-C in {name}", lambda b, n=name: interrupted(b, Product(n), Product(n).check))
    for what, f in REPEATED.items():
        yield state("6.48", f"{what} twice", lambda b, f=f: repeated(b, f))
    for what in ("low rank", "Kronecker", "displacement", "compress"):
        yield state("7.95", f"Ctrl-C in {what}", lambda b, f=REPEATED[what]: (lambda w: interrupted(b, w, w.check))(Fitting(f)), on=("numpy", "torch"))
    yield state("7.91", "fork", lambda b: python(FORK) == "True", on=numpy)
    yield state("7.91", "spawn", lambda b: python(SPAWN) == "True", on=numpy)
    yield state("7.96", "nothing but NumPy and SciPy", lambda b: python(BLOCKED) == "True", on=numpy)
    yield state("7.93", "the import changes no state", lambda b: python(STATE, "-W", "error") == "True", on=numpy)
    yield state("7.97", "no CUDA device", no_cuda, Refusal(RuntimeError, "device", "cuda:0", "."), "device", ("numpy", "torch"))
    yield state(
        "7.99",
        "meta beside cpu",
        lambda b: sm.Dense(b(S3)) @ b.xp.empty((3,), device="meta"),
        Refusal(TypeError, "x", "mixed devices.*cpu.*meta", "to_device"),
        "device",
        ("torch",),
    )
    yield state(
        "7.99",
        "a matrix of two devices",
        lambda b: sm.Kronecker(b(S3), b.xp.empty((3, 3), device="meta")),
        Refusal(TypeError, r"factors\[1\]", "mixed devices", "to_device"),
        "device",
        ("torch",),
    )
    yield state(
        "7.99",
        "NumPy beside CuPy",
        lambda b: sm.Dense(b(S3)) @ np.ones(3),
        Refusal(TypeError, "x", "mixed libraries", "."),
        "device",
        ("cupy",),
    )
    yield state("7.100", "a stream of one's own", parity, TRUE, "device", ("cupy",))
    yield state(
        "7.65",
        "2^31 + 8 entries",
        lambda b: (
            host((sm.Diagonal(b([2.0])) @ b.xp.broadcast_to(b.xp.ones((1, 1), dtype="float32"), (1, 2**31 + 8)))[0, -1])
            == 2
        ),
        TRUE,
        "size",
        ("cupy",),
    )
