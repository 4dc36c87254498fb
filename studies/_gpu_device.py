"""A CUDA device as a study sees it: what it is, what it can do at most, and how long a call takes on it.

Times are those of CUDA events. CuPy and torch both work on the default stream of the device, so one pair of events times
either. Everything here asks CuPy and torch at run time; nothing is imported before a device is known to be there.
"""

import contextlib
import importlib
import importlib.metadata
import math
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from studies import _study

ADVICE = 'a CUDA device and CuPy are needed: python -m pip install ".[cuda]" on a machine that has one'
LEAST, MOST, SECONDS = 5, 1000, 0.2  # samples of one way: 200 ms of them, 50 or more where that is short enough
EDGE = 8192  # sides of the square matrices that give the rates


class Device:
    """The current device of CuPy, and torch where it sees it too."""

    where = "cuda"  # what torch calls it

    def __init__(self, cupy: Any, torch: Any) -> None:
        self.cupy, self.torch, self.cuda = cupy, torch, cupy.cuda
        self.properties = dict(self.cuda.runtime.getDeviceProperties(self.cuda.runtime.getDevice()))

    # --- what it is -------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, Any]:
        """Name, driver, sizes and versions; clocks are read, never set."""
        p, runtime = self.properties, self.cuda.runtime
        return {
            "gpu": text(p["name"]),
            "capability": f"{p['major']}.{p['minor']}",
            "driver": runtime.driverGetVersion(),
            "runtime": runtime.runtimeGetVersion(),
            "SMs": p["multiProcessorCount"],
            "L2": self.l2,
            "shared memory": p["sharedMemPerBlockOptin"],
            "memory": p["totalGlobalMem"],
            "clocks": clocks(),
            "TF32 off": not self.tf32(),
            "versions": versions(),
        }

    @property
    def l2(self) -> int:
        """Bytes of the L2 cache."""
        return int(self.properties["l2CacheSize"])

    def tf32(self) -> bool:
        """Whether products in float32 may be rounded to TF32, in either library."""
        mine = os.environ.get("CUPY_TF32", "0") not in ("", "0")
        return mine or bool(self.torch and self.torch.backends.cuda.matmul.allow_tf32)

    # --- how long something takes -----------------------------------------------------------------------------------

    def synchronize(self) -> None:
        """Until the device has done all that was asked."""
        self.cuda.runtime.deviceSynchronize()

    def seconds(self, call: Callable[[Any], Any], inputs: Sequence[Any], stream: Any = None) -> list[float]:
        """[p10, median, p90] of the seconds between events around call(x), the inputs in turn."""
        stream = stream or self.cuda.Stream.null
        for x in (inputs[0], *inputs):
            call(x)
        self.synchronize()
        start = time.perf_counter()
        for k in range(3):
            call(inputs[k % len(inputs)])
        self.synchronize()
        count = min(MOST, max(LEAST, math.ceil(SECONDS * 3 / max(time.perf_counter() - start, 1e-6))))
        events = [(self.cuda.Event(), self.cuda.Event()) for _ in range(count)]
        for k, (before, after) in enumerate(events):
            before.record(stream)
            call(inputs[k % len(inputs)])
            after.record(stream)
        self.synchronize()
        return spread([1e-3 * self.cuda.get_elapsed_time(*pair) for pair in events])

    def replayed(self, call: Callable[[Any], Any], inputs: Sequence[Any], library: str) -> list[float]:
        """The same for one of the calls in a CUDA graph of all of them: without what the host adds."""
        capture = self._torch_graph if library == "torch" else self._cupy_graph
        replay, stream = capture(call, inputs)
        return [s / len(inputs) for s in self.seconds(replay, [None], stream)]

    def _cupy_graph(self, call: Callable[[Any], Any], inputs: Sequence[Any]) -> tuple[Callable[[Any], Any], Any]:
        stream = self.cuda.Stream(non_blocking=True)
        self.synchronize()  # the inputs were made on another stream
        with stream:
            for (
                x
            ) in inputs:  # compiles, and fills the pool of this stream: no memory may be asked for while it captures
                call(x)
            stream.synchronize()
            stream.begin_capture()
            try:
                for x in inputs:
                    call(x)
            except BaseException:
                with contextlib.suppress(Exception):  # ends the capture that has failed
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        return lambda _: graph.launch(stream=stream), stream

    def _torch_graph(self, call: Callable[[Any], Any], inputs: Sequence[Any]) -> tuple[Callable[[Any], Any], Any]:
        torch = self.torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for x in inputs:
                call(x)
        torch.cuda.current_stream().wait_stream(side)
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for x in inputs:
                call(x)
        return lambda _: graph.replay(), None

    def peak(self, call: Callable[[Any], Any], x: Any) -> int:
        """The most bytes of both allocators during one call, above those before it."""
        hook = _watcher(self.cuda)
        if self.torch:
            self.torch.cuda.reset_peak_memory_stats()
            before = self.torch.cuda.memory_allocated()
        with hook:
            call(x)
        self.synchronize()
        return int(hook.most + (self.torch.cuda.max_memory_allocated() - before if self.torch else 0))

    def launches(self, call: Callable[[Any], Any], x: Any) -> int | None:
        """Kernels of one call after a first one, counted by torch's profiler; None where it cannot."""
        if not self.torch:
            return None
        from torch.profiler import ProfilerActivity, profile

        with contextlib.suppress(Exception):  # it needs rights that not every machine gives
            call(x)
            self.synchronize()
            with profile(activities=[ProfilerActivity.CUDA]) as watched:
                call(x)
                self.synchronize()
            events = [e for e in watched.events() if "cuda" in str(e.device_type).lower()]
            return len([e for e in events if not e.name.startswith(("Memcpy", "Memset"))]) or None
        return None

    def release(self) -> None:
        """Give back what the pools of both libraries keep."""
        self.synchronize()
        self.cupy.get_default_memory_pool().free_all_blocks()
        if self.torch:
            self.torch.cuda.empty_cache()

    # --- what it can do at most ---------------------------------------------------------------------------------------

    def ceilings(self, edge: int = EDGE) -> dict[str, float | None]:
        """Bytes a second of a copy, flops a second of GEMMs by dtype, seconds of an empty launch; None: not measured."""
        found: dict[str, float | None] = {}
        for name, measure in (
            ("copy", self._copy),
            *((f"gemm {d}", lambda d=d: self._gemm(d, edge)) for d in ("float32", "float64")),
            *((f"gemm {d}", lambda d=d: self._torch_gemm(d, edge)) for d in ("tf32", "bfloat16")),
            ("launch", self._launch),
            ("launch in a graph", lambda: self._launch(graph=True)),
            ("launch of torch", self._torch_launch),
        ):
            try:
                found[name] = measure()
            except Exception as error:  # noqa: BLE001  a rate that cannot be had is said
                found[name] = None
                print(f"gpu_speed: {name}: {brief(error)}", flush=True)
            self.release()
        return found

    def _copy(self) -> float:
        free, _ = self.cuda.runtime.memGetInfo()
        size = min(2**32, free // 4) // 4
        a, b = (self.cupy.zeros(size, dtype="float32") for _ in range(2))
        took = self.seconds(lambda x: self.cupy.copyto(b, x), [a])[1]
        return 2 * a.nbytes / took

    def _gemm(self, dtype: str, edge: int) -> float:
        a = self.cupy.ones((edge, edge), dtype=dtype)
        out = self.cupy.empty_like(a)
        return 2 * edge**3 / self.seconds(lambda x: self.cupy.matmul(x, x, out=out), [a])[1]

    def _torch_gemm(self, dtype: str, edge: int) -> float | None:
        torch = self.torch
        if not torch:
            return None
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        try:
            kind = torch.float32 if dtype == "tf32" else torch.bfloat16
            a = torch.randn(edge, edge, dtype=torch.float32, device=self.where).to(kind)
            out = torch.empty_like(a)
            return 2 * edge**3 / self.seconds(lambda x: torch.mm(x, x, out=out), [a])[1]
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    def _launch(self, graph: bool = False) -> float:
        empty = self.cupy.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
        if graph:
            return self.replayed(lambda _: empty((1,), (1,), ()), [None] * 20, "cupy")[1]
        return self.seconds(lambda _: empty((1,), (1,), ()), [None])[1]

    def _torch_launch(self) -> float | None:
        if not self.torch:
            return None
        one = self.torch.zeros(1, device=self.where)
        return self.seconds(lambda _: one.add_(1), [None])[1]


def device() -> Device:
    """The device of this machine, or a StudyError of one line that says what is missing."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        raise _study.StudyError(f"gpu_speed: CuPy is not installed; {ADVICE}") from None
    if not cupy.is_available():
        raise _study.StudyError(f"gpu_speed: no CUDA device; {ADVICE}")
    torch = None
    with contextlib.suppress(ImportError):
        found = importlib.import_module("torch")
        torch = found if found.cuda.is_available() else None
    return Device(cupy, torch)


def _watcher(cuda: Any) -> Any:
    """A hook of CuPy's allocator that keeps the most bytes handed out since it was set."""

    class Watcher(cuda.MemoryHook):  # type: ignore[misc]
        name = "Watcher"

        def __init__(self) -> None:
            self.now = self.most = 0

        def malloc_postprocess(self, **told: Any) -> None:
            self.now += told["mem_size"]
            self.most = max(self.most, self.now)

        def free_postprocess(self, **told: Any) -> None:
            self.now -= told["mem_size"]

    return Watcher()


def spread(seconds: Sequence[float]) -> list[float]:
    """p10, median, p90."""
    if len(seconds) < 2:
        return list(seconds) * 3
    tenths = statistics.quantiles(seconds, n=10, method="inclusive")
    return [tenths[0], statistics.median(seconds), tenths[8]]


def clocks() -> dict[str, str]:
    """What nvidia-smi says about clocks and power."""
    asked = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "temperature.gpu")
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader", "--id=0"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        line = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
        return dict(zip(asked, (cell.strip() for cell in line.split(",")), strict=False))
    return {}


def versions() -> dict[str, str]:
    """Of what takes part, or "not installed"."""
    found = {}
    for name in ("cupy-cuda13x", "torch", "triton", "linear_operator", "peft", "opt_einsum", "pyfastkron"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def text(name: str | bytes) -> str:
    """A name that CUDA gives as bytes."""
    return name.decode() if isinstance(name, bytes) else str(name)


def brief(error: BaseException) -> str:
    """An error in one short line."""
    return f"{type(error).__name__}: {error}".split("\n")[0][:120]
