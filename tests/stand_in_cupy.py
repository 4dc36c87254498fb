"""NumPy under CuPy's names: what the GPU study asks of CuPy, so that its control flow runs where there is no device.

Nothing here computes on a device or says how fast one is. `USED` lists the names; where CuPy is installed a test compares them
with its own.
"""

import time
import types

import numpy as np

USED = (
    *("asnumpy", "RawKernel", "is_available", "get_default_memory_pool", "copyto", "einsum", "from_dlpack", "fft.rfft"),
    *(
        "cuda.Event",
        "cuda.Stream",
        "cuda.Stream.null",
        "cuda.get_elapsed_time",
        "cuda.MemoryHook",
        "cuda.set_allocator",
    ),
    *("cuda.runtime.getDeviceProperties", "cuda.runtime.getDevice", "cuda.runtime.driverGetVersion"),
    *("cuda.runtime.runtimeGetVersion", "cuda.runtime.deviceSynchronize", "cuda.runtime.memGetInfo"),
    *("cuda.Stream.begin_capture", "cuda.Stream.end_capture", "cuda.Stream.synchronize", "cuda.Event.record"),
    *("cuda.MemoryHook.malloc_postprocess", "cuda.MemoryHook.free_postprocess", "cuda.Graph.launch"),
    *("arange", "ascontiguousarray", "concatenate", "empty", "empty_like", "full", "isfinite", "kron", "matmul"),
    *("maximum", "ones", "roll", "where", "zeros", "asarray"),
)


class Event:
    def record(self, stream=None):
        self.at = time.perf_counter()


class Graph:
    def __init__(self, calls):
        self.calls = calls

    def launch(self, stream=None):
        assert stream is not None
        self.calls.append("launch")


class Stream:
    """It knows whether it captures. Each module has a class of its own with a log."""

    def __init__(self, non_blocking=False):
        self.capturing = False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        assert not self.capturing, "a stream is left that still captures"

    def synchronize(self):
        assert not self.capturing

    def begin_capture(self):
        self.capturing = True
        self.log.append("begin")

    def end_capture(self):
        self.capturing = False
        self.log.append("end")
        return Graph(self.log)


class MemoryHook:
    """Calls back as CuPy's does, for one block of 512 bytes."""

    def __enter__(self):
        self.malloc_postprocess(mem_size=512)
        self.free_postprocess(mem_size=512)
        return self

    def __exit__(self, *error):
        return None


PROPERTIES = {
    "name": b"stand-in",
    "major": 0,
    "minor": 0,
    "multiProcessorCount": 1,
    "l2CacheSize": 2**14,
    "sharedMemPerBlockOptin": 232448,
    "totalGlobalMem": 2**30,
}


class Module(types.ModuleType):
    def __getattr__(self, name):
        return getattr(np, name)


def module():
    """A new one."""
    made = Module("stand_in_cupy")
    made.ndarray = type("ndarray", (), {})  # nothing is an instance of it
    made.asnumpy = np.asarray
    made.is_available = lambda: True
    made.get_default_memory_pool = lambda: types.SimpleNamespace(free_all_blocks=lambda: None)
    made.RawKernel = lambda code, name: lambda grid, block, args: None
    stream = type("Stream", (Stream,), {"log": []})
    stream.null = stream()
    runtime = types.SimpleNamespace(
        getDevice=lambda: 0,
        getDeviceProperties=lambda device: PROPERTIES,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13000,
        deviceSynchronize=lambda: None,
        memGetInfo=lambda: (2**22, 2**22),
    )
    made.cuda = types.SimpleNamespace(
        Event=Event,
        Stream=stream,
        MemoryHook=MemoryHook,
        get_elapsed_time=lambda before, after: 1e3 * (after.at - before.at),
        runtime=runtime,
    )
    return made
