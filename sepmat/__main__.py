"""The command line: which structure does my matrix nearly have?

python -m sepmat approximate FILE [--max-parameters N | --tol E] [--structures …] [--plot OUT.png] [--json OUT.json] [--save OUT]
python -m sepmat info FILE
python -m sepmat selftest        is the library right on this machine, with these array libraries?
"""

import argparse
import importlib.util
import json
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import sepmat

from . import linalg
from .approximate import STRUCTURES, Fit, approximate
from .errors import ArgumentError, BackendError, FormatError, NonFiniteError, SepmatError
from .io import load, save
from .matrix import StructuredMatrix
from .selftest import selftest

FORMATS = (".npy", ".npz", ".safetensors", ".csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 if a self-test fails, or 2 with one line on stderr."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not hasattr(args, "run"):
        parser.print_help()
        return 2
    try:
        status: int | None = args.run(args)
    except (SepmatError, OSError) as error:
        print(f"sepmat: {error}", file=sys.stderr)
        return 2
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sepmat", description="Structured approximation of matrices.")
    parser.add_argument("--version", action="version", version=f"sepmat {sepmat.__version__}")
    commands = parser.add_subparsers(title="commands")
    command = commands.add_parser(
        "approximate",
        help="which structure does a matrix nearly have?",
        description="Try every structure on a matrix and print the fits, best first.",
    )
    command.add_argument("file", type=Path, help=f"matrix file: {', '.join(FORMATS)}")
    command.add_argument("--key", help="which array of an .npz or .safetensors file (default: every 2-D array in it)")
    goal = command.add_mutually_exclusive_group()
    goal.add_argument(
        "--max-parameters",
        type=int,
        metavar="N",
        help="smallest error with at most N parameters (default: a tenth of the entries)",
    )
    goal.add_argument(
        "--tol", type=float, metavar="E", help="fewest parameters with relative Frobenius error at most E"
    )
    command.add_argument("--structures", nargs="+", metavar="NAME", help=f"which to try, of: {', '.join(STRUCTURES)}")
    command.add_argument(
        "--top", type=int, default=10, metavar="K", help="how many fits to print for each matrix (default 10, 0: all)"
    )
    command.add_argument("--seed", type=int, default=0, help="seed of the randomised fits (default 0)")
    command.add_argument("--plot", type=Path, metavar="OUT.png", help="draw relative error against parameters")
    command.add_argument("--json", type=Path, metavar="OUT.json", help="write all fits as JSON")
    command.add_argument("--save", type=Path, metavar="OUT.safetensors", help="write the best fit for sepmat.load")
    command.set_defaults(run=_approximate)
    command = commands.add_parser("info", help="print what a file that sepmat.save wrote holds, after checking it")
    command.add_argument("file", type=Path, help="a file of a matrix or a fit")
    command.set_defaults(run=_info)
    command = commands.add_parser(
        "selftest",
        help="is the library right on this machine?",
        description="Compare every class with its definition on every array library that is installed, in seconds.",
    )
    command.add_argument("--backends", nargs="+", metavar="NAME", help="of numpy, array_api_strict, torch, cupy")
    command.add_argument("--seed", type=int, default=0, help="seed of the random numbers (default 0)")
    command.set_defaults(run=_selftest)
    command = commands.add_parser("capabilities", help="print which class has which rules, as a Markdown table")
    command.set_defaults(run=lambda args: print(capabilities()))
    return parser


def _approximate(args: argparse.Namespace) -> None:
    _check_outputs(args.plot, args.json, args.save)
    results: dict[str, tuple[tuple[int, int], list[Fit]]] = {}
    failed: list[SepmatError] = []
    bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
    for name, matrix in read_matrices(args.file, args.key):
        shape = (int(matrix.shape[0]), int(matrix.shape[1]))
        goal: dict[str, Any] = {"tol": args.tol}
        if args.tol is None:  # by default a tenth of the entries, and never less than two terms of rank one
            default = max(math.prod(shape) // 10, 2 * sum(shape), 1)
            goal = {"max_parameters": default if args.max_parameters is None else args.max_parameters}
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            try:
                fits = approximate(matrix, **goal, structures=args.structures, seed=args.seed, progress=bar)
            except NonFiniteError as error:  # of this one: the other matrices of the file are still wanted
                failed.append(error)
                print(f"{name}: {shape[0]}×{shape[1]}, left out: {error}")
                continue
        results[name] = (shape, fits)
        wanted = ", ".join(f"{key.replace('_', '-')} {value}" for key, value in goal.items())
        print(f"{name}: {shape[0]}×{shape[1]} {matrix.dtype}, {wanted}")
        print(table(fits[: args.top] if args.top > 0 else fits, shape))
        if args.top > 0 and len(fits) > args.top:
            print(f"… and {len(fits) - args.top} more (--top 0 prints all)")
        for note in notes:
            print(f"note: {note.message}")
    if args.json and results:
        records = {name: [_record(f, shape) for f in fits] for name, (shape, fits) in results.items()}
        args.json.write_text(json.dumps(records, indent=1) + "\n")
    if args.plot and results:
        plot(results, args.plot)
    if args.save and results:
        _save_best(results, args.save)
    if failed:
        raise failed[0]
    if not results:
        got = f"no 2-D array in {args.file}"
        raise FormatError("approximate", "file", got, "at least one matrix", "Save a 2-D array")


def _save_best(results: dict[str, tuple[tuple[int, int], list[Fit]]], path: Path) -> None:
    if len(results) != 1:
        got, expected = f"{len(results)} matrices: {', '.join(results)}", "one matrix, whose best fit is saved"
        raise ArgumentError("approximate", "--save", got, expected, "Choose one with --key")
    ((_, fits),) = results.values()
    if not fits:
        raise ArgumentError("approximate", "--save", "no fit", "a fit", "Allow more parameters or a larger --tol")
    save(fits[0], path)
    print(f"saved: {fits[0].matrix!r} in {path}")


def _info(args: argparse.Namespace) -> None:
    found, size = load(args.file), args.file.stat().st_size
    if isinstance(found, Fit):
        print(f"Fit, relative error {found.relative_error:.3e}, condition number {found.condition_number}")
        found = found.matrix
    print(f"{found!r}: {found.num_parameters:,} parameters, {size:,} bytes")


def _selftest(args: argparse.Namespace) -> int:
    found = selftest(args.backends, args.seed)
    print(found)
    return 0 if found.passed else 1


def _check_outputs(plot_file: Path | None, json_file: Path | None, save_file: Path | None) -> None:
    """What would fail after the fits, before them."""
    for option, path in (("--plot", plot_file), ("--json", json_file), ("--save", save_file)):
        if path and not path.absolute().parent.is_dir():
            raise FormatError("approximate", option, f"no folder {path.parent}", "an existing folder", "Make it first")
    if plot_file and plot_file.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise FormatError("approximate", "--plot", repr(plot_file.name), "a .png, .pdf or .svg", "Change the ending")
    if plot_file and importlib.util.find_spec("matplotlib") is None:
        advice = "Run: pip install matplotlib"
        raise BackendError("approximate", "--plot", "matplotlib is not installed", "the extra sepmat[studies]", advice)


def capabilities() -> str:
    """The rules of every class, read off the open functions, as a Markdown table."""
    functions = [f for f in vars(linalg).values() if isinstance(f, linalg.OpenFunction)]
    classes = [c for c in vars(sepmat).values() if isinstance(c, type) and issubclass(c, StructuredMatrix)]
    lines = ["| | " + " | ".join(f.__name__ for f in functions) + " |", "|---" * (len(functions) + 1) + "|"]
    for cls in classes:
        if cls is not StructuredMatrix:
            lines.append(f"| {cls.__name__} | " + " | ".join("✓" if f.find(cls) else "" for f in functions) + " |")
    return "\n".join(lines)


def read_matrices(path: Path, key: str | None = None) -> Iterator[tuple[str, Any]]:
    """(name, matrix) for every 2-D array of a file; nothing is ever unpickled."""
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise FormatError(
            "approximate",
            "file",
            f"{path.name!r} ends in {kind or 'nothing'!r}",
            f"one of {', '.join(FORMATS)}",
            "Save the matrix with numpy.save",
        )
    if path.is_dir():
        raise FormatError("approximate", "file", f"{path} is a folder", "a file", "Name a file in it")
    arrays = _read(path, kind)
    if key is not None and key not in arrays:
        raise FormatError(
            "approximate", "--key", repr(key), f"one of {', '.join(sorted(arrays)[:20])}", "Check the name"
        )
    for name, array in arrays.items():
        if key == name and array.ndim != 2:
            raise FormatError("approximate", "--key", f"{name!r} is {array.ndim}-D", "a 2-D array", "Reshape it first")
        if key in (None, name) and array.ndim == 2:
            if array.dtype == np.float16:  # half precision is how weights are stored, not how they are fitted
                array = array.astype(np.float32)
            yield name, array


def _read(path: Path, kind: str) -> dict[str, Any]:
    try:
        if kind == ".csv":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NumPy warns of an empty file, which is an answer here
                return {path.name: np.loadtxt(path, delimiter=",", ndmin=2)}
        if kind == ".safetensors":
            return _read_safetensors(path)
        loaded = np.load(path, allow_pickle=False)
        if kind == ".npy":
            return {path.name: loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (SepmatError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  NumPy's readers raise anything from SyntaxError to BadZipFile
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise FormatError(
            "approximate",
            "file",
            f"cannot read {path} ({reason})",
            f"a valid {kind} file of numbers",
            "Write it again with the library it comes from",
        ) from None


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import safe_open
    except ImportError:
        raise BackendError(
            "approximate",
            "file",
            "safetensors is not installed",
            "the extra sepmat[files]",
            "Run: pip install 'sepmat[files]'",
        ) from None
    arrays = {}
    with safe_open(path, framework="np") as file:
        for name in file.keys():  # noqa: SIM118  it is not a dictionary
            if len(file.get_slice(name).get_shape()) == 2:
                try:
                    arrays[name] = file.get_tensor(name)
                except TypeError:
                    kind = file.get_slice(name).get_dtype()
                    raise FormatError(
                        "approximate",
                        name,
                        f"dtype {kind}",
                        "a dtype that NumPy has",
                        "Convert the tensor to float32 first",
                    ) from None
    return arrays


def table(fits: Sequence[Fit], shape: tuple[int, int]) -> str:
    """The fits as text: structure, parameters, share of the dense count, relative error, whether it is the best."""
    if not fits:
        return "  nothing fits: no structure of the list reaches the goal with fewer parameters than the dense matrix"
    dense = max(1, shape[0] * shape[1])
    rows = [("structure", "parameters", "of dense", "rel. error", "optimal?")]
    rows += [
        (
            _label(f),
            str(f.num_parameters),
            f"{f.num_parameters / dense:.2%}",
            f"{f.relative_error:.3e}",
            "yes" if f.optimal else "not proven",
        )
        for f in fits
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        f"  {row[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    lines.insert(1, "  " + "-" * (len(lines[0]) - 2))
    return "\n".join(lines)


def _label(fit: Fit) -> str:
    detail = fit.matrix._detail()
    return type(fit.matrix).__name__ + (f" {detail}" if detail else "")


def _record(fit: Fit, shape: tuple[int, int]) -> dict[str, Any]:
    return {
        "structure": _label(fit),
        "num_parameters": fit.num_parameters,
        "share_of_dense": fit.num_parameters / max(1, shape[0] * shape[1]),
        "relative_error": fit.relative_error,
        "condition_number": fit.condition_number,
        "optimal": fit.optimal,
        "converged": fit.converged,
    }


def plot(results: dict[str, tuple[tuple[int, int], list[Fit]]], path: Path) -> None:
    """Relative error against parameters, one panel a matrix, one colour a class."""
    from matplotlib.figure import Figure

    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    kinds = sorted({type(f.matrix).__name__ for _, fits in results.values() for f in fits})
    for ax, (name, (shape, fits)) in zip(axes.flat, results.items(), strict=False):
        for k, kind in enumerate(kinds):
            points = [(f.num_parameters, max(f.relative_error, 1e-17)) for f in fits if type(f.matrix).__name__ == kind]
            if points:
                ax.scatter(
                    *zip(*points, strict=True), s=22, alpha=0.8, color=f"C{k}", marker="os^Dv*XP"[k % 8], label=kind
                )
        errors = [f.relative_error for f in fits]
        ax.set(xscale="log", xlabel="parameters", ylabel="relative error", title=f"{name}  {shape[0]}×{shape[1]}")
        if errors and min(errors) > 0 and max(errors) > 20 * min(errors):
            ax.set_yscale("log")
        ax.grid(alpha=0.3)
        if fits:
            ax.legend(fontsize="small", frameon=False)
    for ax in list(axes.flat)[len(results) :]:
        ax.set_visible(False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
