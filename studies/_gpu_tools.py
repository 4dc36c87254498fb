"""Tools that look over the kernels' shoulder, each in a process of its own: compute-sanitizer, ncu, and whether FastKron runs here.

A tool that is not installed, or not allowed, is written down as such; nothing else depends on it.
`python -m studies._gpu_tools small` and `... 8^5` are what the tools watch.
"""

import contextlib
import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from studies import _gpu_cases, _gpu_routes, _study

MODULE = "studies._gpu_tools"  # __name__ is "__main__" in the process that is watched
LIMIT = 90  # seconds of each
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
WATCHED = {"8^4": _gpu_cases.power(8, 4), "8^5": _gpu_cases.power(8, 5), "32^3": _gpu_cases.power(32, 3)}
SMALL = (
    *(_gpu_cases.power(p, n) for p, n in ((2, 6), (3, 4), (5, 3), (8, 3), (8, 4), (16, 2), (32, 2))),
    *(((3, 5), (12, 20)), ((12, 20), (1, 4)), ((16, 8), (8, 16), (4, 4))),
)
FASTKRON = """
import torch
from pyfastkron import fastkrontorch
x, F = torch.ones(16, 512, device="cuda"), [torch.ones(8, 8, device="cuda") for _ in range(3)]
y = fastkrontorch.gemkm(x, F)
torch.cuda.synchronize()
print("sum", float(y.sum()), "expected", 16 * 512 * 512)
"""


def probes() -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """(name, what runs it) of all of them."""
    for tool in SANITIZERS:
        yield tool, lambda tool=tool: sanitized(tool)
    for name in WATCHED:
        yield f"ncu {name}", lambda name=name: counted(name)
    yield "FastKron", fastkron


def sanitized(tool: str) -> dict[str, Any]:
    """compute-sanitizer over small products by the kernel: how many errors it finds."""
    options = ("--tool", tool, "--error-exitcode", "9", "--print-limit", "5")
    found, text = _run("compute-sanitizer", *options, sys.executable, "-m", MODULE, "small")
    if "out" in found:
        return found
    errors = re.search(r"(?:ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard)", text)
    if errors is None:
        return found | {"out": _last(text)}
    return found | {"findings": int(errors[1] or errors[2] or 0)}


def counted(name: str) -> dict[str, Any]:
    """Bytes that one product by the kernel moves to and from memory, beside those that it must."""
    metrics = "dram__bytes_read.sum,dram__bytes_write.sum"
    options = ("--clock-control", "none", "--metrics", metrics, "--csv", "--kernel-name", "regex:^kron_")
    found, text = _run("ncu", *options, "--print-units", "base", sys.executable, "-m", MODULE, name)
    if "out" in found:
        return found
    lines = [line for line in text.splitlines() if line.startswith('"')]
    try:
        moved = sum(float(row["Metric Value"].replace(",", "")) for row in csv.DictReader(lines))
    except (KeyError, ValueError):
        return found | {"out": _last(text)}
    must = _gpu_cases.Case("chain", "chain", 1024, shapes=WATCHED[name]).bytes
    return found | {"bytes": moved, "compulsory": must} if moved else found | {"out": _last(text)}


def fastkron() -> dict[str, Any]:
    """What pyfastkron does on this device."""
    found, text = _run(sys.executable, "-c", FASTKRON)
    return found if "out" in found else found | {"says": _last(text)}


def _run(*command: str) -> tuple[dict[str, Any], str]:
    """({"status": its exit status} or {"out": why there is none}, what it wrote)."""
    if shutil.which(command[0]) is None:
        return {"out": f"{command[0]} is not installed"}, ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, cwd=_study.ROOT)
    except subprocess.TimeoutExpired:
        return {"out": f"not done in {LIMIT} s"}, ""
    return {"status": done.returncode}, done.stdout + done.stderr


def _last(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else "nothing was said")[:160]


def watched(name: str) -> None:
    """What a tool watches: small products without CuPy's pool, which would hide what is out of bounds, or one large one."""
    import cupy

    from studies import _gpu_data

    small = name == "small"
    if small:
        cupy.cuda.set_allocator(None)
    for shapes in SMALL if small else (WATCHED[name],):
        for dtype in ("float32", "float64") if small else ("float32",):
            for terms in (0, 3) if small else (0,):
                case = _gpu_cases.Check(shapes, terms, dtype, 5 if small else 1024, "rows", _gpu_routes.KERNEL)
                stacks = [_gpu_data.draw(cupy, i, (terms, *s) if terms else s, dtype) for i, s in enumerate(shapes)]
                x = _gpu_data.draw(cupy, 31, (case.rows, case.columns), dtype)
                with contextlib.suppress(ValueError):  # no kernel for a sum of these sides
                    _gpu_routes.forced(case.kernel, stacks, x, -1, bool(terms))
    cupy.cuda.runtime.deviceSynchronize()


def main(arguments: Sequence[str]) -> int:
    """The command line that the tools run."""
    watched(*arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
