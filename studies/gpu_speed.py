"""What the kernels do on a CUDA device: correct on the whole grid, how near to the machine's floor, beside every other way.

One call measures the machine (copy, GEMMs, launches), compares some ten thousand products with float64 NumPy, and times
each case by CUDA events, eager and as a replayed graph. Before a way is timed its result is checked. The record is written
after every case, a run that was stopped goes on, and after --minutes (8) it ends by itself. What was predicted before the
first run stands beside what was measured, with the factor by which it missed. `--only sanitize` is a second call.
"""

import faulthandler
import hashlib
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import sepmat
from sepmat.kernels.cuda import layer
from studies import (
    _gpu_cases,
    _gpu_check,
    _gpu_device,
    _gpu_page,
    _gpu_problem,
    _gpu_routes,
    _gpu_tools,
    _gpu_ways,
    _study,
)
from studies._gpu_device import Device, brief

STATUS = "illustration"
LONG = DEVICE = True
MINUTES = 8.0
RESERVE, CASE, COMPILE = 20.0, 10.0, 75.0  # seconds: before the end, a case, a way that torch.compile makes
SHARE = 0.45  # of the time that is left, for the checks
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"every": 199, "cases": ("8^3, M = 1024", "toeplitz n = 512, M = 8192"), "edge": 1024},
    "paper": {"every": 1, "cases": None, "edge": _gpu_device.EDGE},
}


def compute(p: dict[str, Any], rng: Any) -> dict[str, Any]:
    """The parts that were asked for; what the record has already is not measured again, unless the kernels are others."""
    parts = wanted(p.get("only"))
    device = _gpu_device.device()
    run = Run(device, p, int(rng.integers(1000)))
    faulthandler.dump_traceback_later(60 * p.get("minutes", MINUTES), exit=True, file=sys.__stderr__)
    try:
        for part in parts:
            getattr(run, part, run.part)(part)
            print(f"gpu_speed: {part} done, {max(run.left(), 0):.0f} s left", flush=True)
        run.count()
    finally:
        faulthandler.cancel_dump_traceback_later()
    return run.numbers


def wanted(only: str | None) -> list[str]:
    """The parts to run, "env" always; all but the longer ones where none is named."""
    parts = [part for part in _gpu_cases.PARTS if part not in _gpu_cases.LONGER] if only is None else only.split(",")
    for part in parts:
        if part not in _gpu_cases.PARTS:
            raise _study.StudyError(f"--only {part}: unknown part; choose from {', '.join(_gpu_cases.PARTS)}")
    return ["env", *(part for part in _gpu_cases.PARTS if part in parts and part != "env")]


class Run:
    """One call: what there is already, what there is still time for."""

    def __init__(self, device: Device, p: dict[str, Any], seed: int) -> None:
        self.device, self.p, self.seed = device, p, seed
        self.keep: Callable[[dict[str, Any]], None] = p.get("keep", lambda numbers: None)
        self.until = time.monotonic() + max(0.0, 60 * p.get("minutes", MINUTES) - RESERVE)
        here = {"gpu": device.environment()["gpu"], "kernel": digest(sources())}
        self.numbers: dict[str, Any] = p.get("found") or {}
        there = self.numbers.get("environment", here)
        if other := [f"{key} {there[key]}" for key in here if there[key] != here[key]]:
            print(f"gpu_speed: the record is of {', '.join(other)}: everything is measured anew", flush=True)
            self.numbers = {}

    def left(self) -> float:
        """Seconds until nothing new is begun."""
        return self.until - time.monotonic()

    def env(self, part: str) -> None:
        """The machine, and what it can do at most."""
        if "environment" in self.numbers:
            return
        found = sources()
        kernel = {"kernel": digest(found), "sources": found}
        self.numbers |= {"environment": self.device.environment() | kernel}
        self.numbers |= {"ceilings": self.device.ceilings(self.p["edge"])}
        self.numbers |= {"correct": {"planned": 0, "groups": {}}, "cases": {}}
        self.keep(self.numbers)

    def correct(self, part: str) -> None:
        """The grid, group by group: those with the fewest entries first."""
        groups = grid(self.device, self.p["every"])
        found = self.numbers["correct"]
        found["planned"] = sum(map(len, groups.values()))
        until = time.monotonic() + SHARE * max(self.left(), 0.0)
        missing = [check for name, checks in groups.items() if name not in found["groups"] for check in checks]
        if missing:
            found["compiled"] = _gpu_check.compiled(_gpu_check.specialisations(missing), until)
        for k, (name, checks) in enumerate(_study.progress(groups.items(), "checks", len(groups))):
            if name in found["groups"]:
                continue
            if time.monotonic() >= until:
                break
            found["groups"][name] = _gpu_check.group(self.device, checks, 1000 * k + self.seed)
            self.keep(self.numbers)

    def part(self, part: str) -> None:
        """The timed cases of a part."""
        cases = [c for c in _gpu_cases.timed() if c.part == part and c.name in (self.p["cases"] or (c.name,))]
        for k, case in enumerate(_study.progress(cases, part)):
            before = self.numbers["cases"].get(case.name)
            if (before and not before.get("cut")) or self.left() < CASE:
                continue
            self.numbers["cases"][case.name] = self.timed(case, self.seed % 100 + k)
            self.device.release()
            self.keep(self.numbers)

    def timed(self, case: _gpu_cases.Case, seed: int) -> dict[str, Any]:
        """One case by all ways; "cut": there was no time for some."""
        floor = case.floor(self.numbers["ceilings"])
        found: dict[str, Any] = {
            "part": case.part,
            "kind": case.kind,
            "bytes": case.bytes,
            "flops": case.flops,
            "seconds of the floor": floor,
        }
        try:
            problem = _gpu_problem.Problem(case, self.device, seed)
        except Exception as error:  # noqa: BLE001  a case that cannot be made is said
            return found | {"out": brief(error), "ways": {}}
        found |= {"inputs": len(problem.inputs), "ways": {}} | planned(case)
        with warnings.catch_warnings():  # other packages warn of each other
            warnings.simplefilter("ignore")
            for way in _gpu_ways.ways(problem):
                if self.left() < (COMPILE if "compile" in way.name else 0):
                    found["cut"] = True
                    continue
                found["ways"][way.name] = self.way(problem, way)
        return found

    def way(self, problem: _gpu_problem.Problem, way: _gpu_problem.Way) -> dict[str, Any]:
        """One way: its error first, then its times."""
        device, found = self.device, {"library": way.library}
        try:
            call = way.make()
            inputs = [problem.given(way, x) for x in problem.inputs]
            error = problem.error(way, call(inputs[0]))
            found["error"] = error if math.isfinite(error) else None
            if not error <= problem.limit(way):
                return found | {"out": f"error {error:.0e}"}
            found |= {"seconds": {"eager": device.seconds(call, inputs)}, "peak": device.peak(call, inputs[0])}
        except Exception as error:  # noqa: BLE001  what a way raises is a result of the study
            return found | {"out": brief(error)}
        try:
            found["seconds"]["graph"] = device.replayed(call, inputs, way.library)
        except Exception as error:  # noqa: BLE001  not every library can be captured
            found["no graph"] = brief(error)
        return found

    def count(self) -> None:
        """Launches of each way, after all that is timed: the profiler slows what comes after it."""
        for k, case in enumerate(_gpu_cases.timed()):
            told = self.numbers["cases"].get(case.name, {}).get("ways", {})
            open_ = {n for n, w in told.items() if "seconds" in w and "launches" not in w and "compile" not in n}
            if not self.device.torch or not open_ or self.left() < CASE:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                problem = _gpu_problem.Problem(case, self.device, self.seed % 100 + k)
                for way in _gpu_ways.ways(problem):
                    if way.name in open_:
                        x = problem.given(way, problem.inputs[0])
                        told[way.name]["launches"] = self.device.launches(way.make(), x)
            self.device.release()
            self.keep(self.numbers)

    def sanitize(self, part: str) -> None:
        """compute-sanitizer, ncu and FastKron, each in a process of its own."""
        found = self.numbers.setdefault("sanitize", {})
        for name, probe in _gpu_tools.probes():
            if name not in found and self.left() > _gpu_tools.LIMIT:
                found[name] = probe()
                self.keep(self.numbers)


def grid(device: Device, every: int) -> dict[str, list[_gpu_cases.Check]]:
    """The checks of this machine, every so many of them, by group; groups with the fewest entries first."""
    groups = _gpu_cases.grid()
    kept = {name: [c for c in checks if device.torch or c.library != "torch"] for name, checks in groups.items()}
    order = sorted(kept, key=lambda name: max(c.columns for c in kept[name]))
    return {name: kept[name][::every] for name in order}


def planned(case: _gpu_cases.Case) -> dict[str, Any]:
    """The route that the plan of the library takes, and the seconds that it expects, where there is one."""
    if case.kind == "layer":
        route = layer.routes(case.shapes, case.terms, case.rows, case.dtype)[0]
        return {"plan": route.name, "expected": route.seconds}
    if case.kind not in ("chain", "sum"):
        return {}
    p = _gpu_routes.route("", case.shapes, case.rows, case.dtype, case.terms)
    return {"plan": p.route, "expected": p.seconds}


def sources() -> dict[str, str]:
    """SHA-256 of each source of the kernels: what is compiled, and what decides how it is launched."""
    from pathlib import Path

    folder = Path(sepmat.__file__).parent / "kernels" / "cuda"
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in _kernel_files(folder)}


def _kernel_files(folder: Any) -> Iterator[Any]:
    yield from sorted(p for p in folder.glob("*") if p.suffix in (".cuh", ".py") and p.name != "__init__.py")


def digest(found: dict[str, str]) -> str:
    """One name for all sources: twelve digits of the hash of their hashes."""
    lines = "\n".join(f"{name} {value}" for name, value in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def quote(record: dict[str, Any] | None) -> str:
    """What README.md says: for which kernel its numbers hold, and whether that is the one that stands here."""
    return _gpu_page.quote(record, digest(sources()))


def tables(numbers: dict[str, Any]) -> str:
    """The tables of docs/studies.md, with the kernel that they hold for."""
    return _gpu_page.tables(numbers, digest(sources()))


claims, plot = _gpu_page.claims, _gpu_page.plot


if __name__ == "__main__":
    sys.exit(_study.main(only="gpu_speed"))
