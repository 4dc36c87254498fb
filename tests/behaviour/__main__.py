"""The figures of the behaviour table: python -m tests.behaviour [--json figures/behaviour.json] [--backend NAME]

Every case on every library that is here, each with 20 seconds; the same bits in three processes with one and two threads;
every parameter of every public function. The exit status is 1 where a case does not hold, or where there is nothing to count.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from behaviour import arguments, table  # noqa: E402 - tests/ is where cases, conftest and reference are
from behaviour.engine import NAMESPACES, OUTCOMES, PATIENCE, Backend, Outcome, Skip  # noqa: E402

# the comparison of 184 cases and eight libraries that this table answers
ANCHOR = {
    "best library": "SciPy, 86 % of 161", "all libraries": "76.5 % of 652", "silently wrong": "57 of 652", "warnings leaked": "21 of 652",
    "by operation": "90, 93, 84, 81, 85, 32 % (Kronecker and Toeplitz products, Toeplitz, circulant, Kronecker solves, CP)",
}  # fmt: skip

REPEATED, PROCESSES = "6.", (1, 1, 1, 2, 2, 2)  # the rows that other processes repeat, and the threads of each


def share(part: int, whole: int) -> float:
    """Per cent; nothing to count is a mistake and not 0 of 0."""
    if not whole:
        raise SystemExit("no case was asked: there is nothing to count")
    return round(100 * part / whole, 1)


def figures(found: dict[str, Outcome], skipped: collections.Counter[str]) -> dict:
    """What the outcomes on one backend amount to."""
    cases = table.cases()
    kinds = collections.Counter(o.kind for o in found.values())
    groups = {}
    for field in ("operation", "kind"):
        names = sorted({getattr(cases[n], field) for n in found})
        groups[f"handled by {field}, %"] = {
            g: share(sum(o.handled for n, o in found.items() if getattr(cases[n], field) == g), sum(getattr(cases[n], field) == g for n in found))
            for g in names
        }  # fmt: skip
    own = [o for n, o in found.items() if cases[n].row == "own"]
    return {
        "cases": len(found),
        "handled, %": share(sum(o.handled for o in found.values()), len(found)),
        "of these our own": len(own),
        "handled of our own, %": share(sum(o.handled for o in own), len(own)),
        "rows of the expected behaviour": len({cases[n].row for n in found if cases[n].row.startswith("6.")}),
        "rows of the catalogue": len({cases[n].row for n in found if cases[n].row.startswith("7.")}),
        "silently wrong": kinds["silently wrong"],
        "warnings leaked": sum(o.leaked for o in found.values()),
        "outcomes": {kind: kinds[kind] for kind in OUTCOMES},
        "messages read": sum(o.message for o in found.values()),
        "messages that lack a part": kinds["unclear"],
        **groups,
        "not asked": dict(skipped),
    }


def digests(found: dict[str, Outcome]) -> dict[str, str]:
    return {name: o.digest for name, o in found.items()}


def elsewhere(backend: str, threads: int) -> dict[str, str]:
    """The digests of another process."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "random",
        **{f"{lib}_NUM_THREADS": str(threads) for lib in ("OMP", "OPENBLAS", "MKL")},
    }
    command = [sys.executable, "-m", "tests.behaviour", "--backend", backend, "--row", REPEATED, "--digests"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if run.returncode:
        raise SystemExit(f"another process failed: {run.stdout[-500:]} {run.stderr[-500:]}")
    return json.loads(run.stdout)


def present() -> list[str]:
    """The libraries that are here, those that are not named on stderr."""
    names = []
    for name in NAMESPACES:
        try:
            Backend(name)
        except Skip as why:
            print(f"{name}: {why}", file=sys.stderr)
        else:
            names.append(name)
    return names


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.behaviour", description="The figures of the behaviour table")
    parser.add_argument("--backend", action="append", choices=[*NAMESPACES], help="only this library; may be repeated")
    parser.add_argument("--row", default="", help="only rows that begin so: 6., 7.57, own")
    parser.add_argument(
        "--errstate",
        default="warn",
        choices=["warn", "raise", "ignore"],
        help="NumPy's error state while the cases run",
    )
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="in another order")
    parser.add_argument(
        "--digests", action="store_true", help="print the digest of every result, as JSON, and nothing else"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the figures to this file")
    args = parser.parse_args()
    start, numbers, failed = time.monotonic(), {}, []
    chosen = [case for case in table.cases().values() if case.row.startswith(args.row)]
    if args.shuffle is not None:
        random.Random(args.shuffle).shuffle(chosen)
    for backend in args.backend or present():
        quick = [case for case in chosen if args.digests is False or case.operation != "threads, processes, devices"]
        found, skipped = table.outcomes(backend, quick, PATIENCE, args.errstate)
        if args.digests:
            print(json.dumps(digests(found)))
            continue
        failed += [f"{backend}: {name}: {o.kind}: {o.detail}" for name, o in found.items() if not o.handled]
        numbers[backend] = (
            figures(found, skipped)
            if not args.row
            else {"cases": len(found), "handled, %": share(sum(o.handled for o in found.values()), len(found))}
        )
        print(f"{backend}: {len(found)} cases, {numbers[backend]['handled, %']} % handled")
        if args.json:
            others = [elsewhere(backend, threads) for threads in PROCESSES]
            differ = [name for name in others[0] if any(other[name] != others[0][name] for other in others)]
            numbers[backend]["same bits in every process"] = {
                "threads of each": list(PROCESSES),
                "results": len(others[0]),
                "differ": len(differ),
                "same, %": share(len(others[0]) - len(differ), len(others[0])),
            }
            failed += [f"{backend}: {name}: other bits in another process" for name in differ]
    if args.digests:
        return 0
    if not args.row:
        counts, bad = arguments.swept(seconds=PATIENCE)
        failed += bad
        numbers["arguments"] = {"functions": len(arguments.CALLS), "calls": sum(counts.values()), **dict(sorted(counts.items())), "handled, %": share(counts["value"] + counts["refused"], sum(counts.values()))}  # fmt: skip
        print(f"arguments: {sum(counts.values())} calls, {counts['refused']} refused, {counts['bad']} bad")
    print(*failed, sep="\n", file=sys.stderr)
    if args.json:
        from studies import _study

        if args.backend and args.json.exists():  # the other libraries stay as they were
            numbers = {**json.loads(args.json.read_text(encoding="utf-8"))["numbers"], **numbers}
        record = {"made": _study.made(time.monotonic() - start), "anchor": ANCHOR, "numbers": numbers}
        args.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if failed or not numbers else 0


if __name__ == "__main__":
    sys.exit(main())
