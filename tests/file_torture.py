"""Torture for the files of save and load: damage them, kill those who write them, feed the reader with anything.

    python -m tests.file_torture --files 100000 --kills 20 --fuzz-seconds 20     what CI runs, about a minute
    python -m tests.file_torture --files 1000000 --kills 1000 --fuzz-runs 10000000 --peers 20000 --json figures/files.json

Damaged files: mutations of the bytes of valid files. Each must be refused with FormatError, or load with the very content of the
original. Kills: processes that do nothing but save are killed with SIGKILL; the file must then hold one of the versions that
were saved, and no stray may outlive the next save. Fuzzing: mutations of bytes, of the JSON inside, and atheris with coverage, all
of them with a reader that takes every checksum for right, so that what stands behind the checksums is reached: only FormatError may
come out, and what loads must multiply. Peers: the same damage to files of others. The exit status is 1 if anything else happens, or if nothing was done.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter

import numpy as np

import sepmat as sm
from sepmat import _container
from sepmat import io as files

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIGURES, PAGE = ROOT / "figures" / "files.json", ROOT / "docs" / "files.md"
CONSTANT = "0" * 64  # what the reader of the fuzzer takes for every SHA-256


def samples():
    """Small matrices of every class, nested ones and a fit among them."""
    r = np.random.default_rng(0).standard_normal
    c = np.round(10 * r(5))
    z = r(4) + 1j * r(4)
    T = sm.Toeplitz(c[:4], [c[0], 2.0, 7.0])
    return [
        sm.Dense(r((3, 2))),
        sm.Diagonal(z),
        sm.Identity(7, like=np.zeros(1, "float32")),
        sm.LowRank(r((4, 2)), r((3, 2))),
        sm.Circulant(c, (5, 3)),
        sm.SkewCirculant(z),
        T,
        sm.Hankel(c),
        sm.Kronecker(r((2, 3)), sm.Circulant(c), r((3, 1)).astype("float32")),
        sm.KroneckerSum(np.eye(2), sm.Diagonal(c)),
        sm.Separated([r((2, 3, 2)), r((2, 2, 2))], scales=[2.0, 0.5]),
        sm.MultilevelCirculant(r((2, 3))),
        sm.MultilevelToeplitz(r((4, 4)), ((2, 3), (3, 2))),
        sm.LowDisplacementRank(r((5, 2)), r((5, 2)), (3, 5)).T,
        sm.Inverse(sm.Dense(r((3, 3))) + 3 * sm.Identity(3)),
        2.5 * sm.Identity(4) + sm.Toeplitz(c[:4]) @ sm.Kronecker(r((2, 2)), r((2, 2))),
        sm.nearest_toeplitz(r((4, 3))),
        sm.nearest_separated(r((6, 6)), ((2, 2), (3, 3)), rank=2),
    ]


def written(A):
    """The bytes of the file of A."""
    writer = files._Writer(False)
    tree = writer.encode(A, ())
    return b"".join(_container.pack(tree, writer.arrays))


def read(data, **options):
    """The matrix in these bytes."""
    return files._read(io.BytesIO(data), len(data), **options)


def content(value):
    """Everything that a loaded matrix is, bit for bit."""
    if isinstance(value, (sm.StructuredMatrix, sm.Fit)):
        names = value.__dataclass_fields__
        return (type(value).__name__, *((name, content(getattr(value, name))) for name in names))
    if isinstance(value, tuple):
        return tuple(map(content, value))
    if hasattr(value, "dtype"):
        return str(value.dtype), value.shape, np.asarray(value).tobytes()
    return type(value).__name__, repr(value)


# mutations --------------------------------------------------------------------------------------------------------------

TOKENS = [
    *(
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"\0",
        b"null",
        b"true",
        b"false",
        b"NaN",
        b"-1",
        b"1e999",
        b"0",
    ),
    *(
        b"18446744073709551615",
        b"9223372036854775807",
        b"0.5",
        b"\xff",
        b"\xed\xa0\x80",
        b"F64",
        b"F32",
        b"F16",
        b"BF16",
    ),
    *(
        b"float64",
        b"float32",
        b"complex128",
        b"float16",
        b"__metadata__",
        b"sepmat",
        b"sha256",
        b"data_offsets",
        b"Sum",
    ),
    *(
        b"shape",
        b"dtype",
        b"kind",
        b"fields",
        b"Dense",
        b"Circulant",
        b"Fit",
        b"Kronecker",
        b"../x",
        b"terms.0",
        b"[" * 99,
    ),
]


def mutate(data, rng, others):
    """data with one to four of the things that happen to files, and a few that only people do."""
    new = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        n = len(new)
        header = min(n, 8 + int.from_bytes(new[:8], "little"))
        at = rng.randrange(max(1, rng.choice((n, header, 16, n))))
        size = rng.choice((1, 2, 4, 8, rng.randrange(1, 65)))
        kind = rng.randrange(13)
        if kind <= 2 and n:  # a flipped bit
            new[min(at, n - 1)] ^= 1 << rng.randrange(8)
        elif kind == 3 and n:  # another byte
            new[min(at, n - 1)] = rng.randrange(256)
        elif kind == 4:  # cut off
            del new[rng.randrange(n + 1) :]
        elif kind == 5:
            del new[at : at + size]
        elif kind == 6:
            new[at:at] = rng.randbytes(size)
        elif kind == 7:
            new[at : at + size] = bytes(len(new[at : at + size]))
        elif kind == 8:  # blocks that changed places
            to = rng.randrange(n + 1)
            new[at : at + size], new[to : to + size] = new[to : to + size], new[at : at + size]
        elif kind == 9:  # the end of another file
            other = rng.choice(others)
            new[at:] = other[min(at, len(other)) :]
        elif kind == 10:
            new[at:at] = rng.choice(TOKENS)
        elif kind == 11:
            token = rng.choice(TOKENS)
            new[at : at + len(token)] = token
        else:  # another digit
            digits = [i for i in range(at, min(header, at + 200)) if 48 <= new[i] <= 57]
            if digits:
                new[rng.choice(digits)] = rng.randrange(48, 58)
    return bytes(new)


def mutate_json(data, rng, others):
    """data with a change in the objects of its header or its manifest, and with sizes that fit again, mostly."""
    length = int.from_bytes(data[:8], "little")
    header, arrays = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.3:
        header = changed(header, rng)
    else:
        manifest = json.loads(header["__metadata__"]["sepmat"])
        for _ in range(rng.choice((1, 1, 2))):
            manifest["tree"] = changed(manifest["tree"], rng)
        header["__metadata__"]["sepmat"] = json.dumps(manifest)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + arrays


def changed(node, rng):
    """A JSON value with something else at one place."""
    if isinstance(node, (dict, list)) and node and rng.random() < 0.8:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        new = dict(node) if isinstance(node, dict) else list(node)
        action = rng.random()
        if action < 0.08:
            del new[key]
        elif action < 0.12 and isinstance(new, list):
            new.append(new[key])
        elif action < 0.16 and isinstance(new, dict):
            new[rng.choice(("c", "shape", "kind", "fields", "0", "array"))] = new[key]
        else:
            new[key] = changed(new[key], rng)
        return new
    if type(node) is int and rng.random() < 0.6:
        return node + rng.choice((-1, 1, 1, 7, -node, 2**31, 2**62))
    kinds = [
        "Sum",
        "Product",
        "Scaled",
        "Dense",
        "Circulant",
        "Toeplitz",
        "Separated",
        "Fit",
        "Inverse",
        "Kronecker",
        "Identity",
    ]
    return rng.choice([
        *(None, True, 0, 1, -1, 2.5, 10**30, [], {}, "", "x", [1, 2], [[1, 2]], {"float": "nan"}, "float32", "F32", node, [node]),
        *([{"kind": k, "fields": {}} for k in kinds[:3]] + kinds),
    ])  # fmt: skip


def damaged_files(count, seed):
    """How many of so many damaged files are refused, load unchanged, load changed, or do something else."""
    rng = random.Random(seed)
    originals = [(data, content(read(data))) for data in map(written, samples())]
    others = [data for data, _ in originals]
    found = Counter()
    examples = []
    while sum(found.values()) < count:
        data, expected = rng.choice(originals)
        new = mutate(data, rng, others)
        if new in others:  # a whole file is not a damaged one
            continue
        try:
            verdict = "unchanged" if content(read(new)) == expected else "changed"
        except sm.FormatError:
            verdict = "refused"
        except Exception as error:  # noqa: BLE001  that is what is looked for
            verdict = f"error: {type(error).__name__}"
        found[verdict] += 1
        if verdict not in ("refused", "unchanged") and len(examples) < 5:
            examples.append((verdict, new))
    return found, examples


def undigested(data):
    return CONSTANT


def fuzzed(data):
    """One execution: the name of the exception that should not be, or None."""
    try:
        A = read(data)
        A = A.matrix if isinstance(A, sm.Fit) else A
        repr(A)
        if max(A.shape) <= 1000:
            A @ np.ones(A.shape[1])
    except sm.FormatError:
        return None
    except sm.DTypeError as error:  # half precision needs a tensor
        return None if error.args[1] == "like" else f"DTypeError: {error}"
    except (sm.SingularMatrixError, sm.UnsupportedError, sm.SizeLimitError):
        return None  # of a product with what has been loaded
    except Exception as error:  # noqa: BLE001  that is what is looked for
        return f"{type(error).__name__}: {error}"
    return None


def random_fuzzing(seed, runs, seconds):
    """(executions, examples of failures) by mutations of bytes and of JSON, with checksums that always agree."""
    rng, digest, start = random.Random(seed), _container.digest, time.monotonic()
    done, examples = 0, []
    _container.digest = files.digest = undigested
    try:
        corpus = [written(A) for A in samples()]
        while done < runs and time.monotonic() - start < seconds:
            for _ in range(min(1000, runs - done)):
                data = rng.choice(corpus)
                data = (mutate if rng.random() < 0.5 else mutate_json)(data, rng, corpus)
                failure = fuzzed(data)
                if failure and len(examples) < 5:
                    examples.append((failure, data))
                done += 1
    finally:
        _container.digest = files.digest = digest
    return done, examples


# atheris ----------------------------------------------------------------------------------------------------------------


def atheris_child(corpus, arguments):
    """Runs until libFuzzer says so; a failure is a crash with its input written to a file."""
    import atheris

    _container.digest = files.digest = undigested
    for name in ("_header", "_tree", "_entries", "_are_sizes", "_json"):
        setattr(_container, name, atheris.instrument_func(getattr(_container, name)))
    for cls, name in ((files._Reader, "decode"), (files._Reader, "object"), (files._Reader, "array")):
        setattr(cls, name, atheris.instrument_func(getattr(cls, name)))
    for name in ("_is", "_checked", "_read"):
        setattr(files, name, atheris.instrument_func(getattr(files, name)))

    def one(data):
        failure = fuzzed(data)
        if failure:
            raise AssertionError(failure)

    atheris.Setup([sys.argv[0], *arguments, str(corpus)], one)
    atheris.Fuzz()


def atheris_fuzzing(seed, runs, seconds):
    """(executions, examples of failures) of atheris in a process of its own; (0, []) where it is not installed."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        return 0, []
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        corpus = folder / "corpus"
        corpus.mkdir()
        digest, _container.digest = _container.digest, undigested
        files.digest = undigested
        try:
            for i, A in enumerate(samples()):
                (corpus / str(i)).write_bytes(written(A))
        finally:
            _container.digest = files.digest = digest
        words = [t for t in TOKENS if t.isascii() and t.isalnum()]
        (folder / "words").write_text("".join(f'"{t.decode()}"\n' for t in words))
        options = [f"-seed={seed + 1}", "-max_len=4096", f"-dict={folder / 'words'}", f"-artifact_prefix={folder}/"]
        options += [f"-max_total_time={max(1, int(seconds))}", "-print_final_stats=1", "-verbosity=0"]
        options += [f"-runs={runs}"] if runs else []
        command = [sys.executable, "-m", "tests.file_torture", "--atheris", str(corpus), *options]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", check=False)
        stats = [line for line in ended.stderr.splitlines() if "number_of_executed_units" in line]
        done = int(stats[-1].split()[-1]) if stats else 0
        crashes = [file for file in folder.iterdir() if file.name.startswith(("crash", "oom", "timeout", "slow"))]
        examples = [(fuzzed_alone(file.read_bytes()) or file.name, file.read_bytes()) for file in crashes]
        if ended.returncode and not examples:
            examples = [(ended.stderr[-500:], b"")]
        return done, examples
    finally:
        shutil.rmtree(folder)


def fuzzed_alone(data):
    digest = _container.digest
    _container.digest = files.digest = undigested
    try:
        return fuzzed(data)
    finally:
        _container.digest = files.digest = digest


# kills ------------------------------------------------------------------------------------------------------------------


def kills(count, seed, save=sm.save, load=sm.load):
    """Save in a process, kill it, look: (files lost, strays after the next save, kills inside a save)."""
    rng = random.Random(seed)
    versions = [sm.Dense(np.full((k, 300), float(k))) for k in (1, 40, 400)]
    expected = [content(A) for A in versions]
    folder = pathlib.Path(tempfile.mkdtemp())
    path = folder / "matrix.npz"
    lost = strays = inside = 0
    try:
        save(versions[0], path)
        for _ in range(count):
            child = os.fork()
            if not child:
                try:
                    while True:
                        for A in versions:
                            save(A, path)
                finally:
                    os._exit(1)
            time.sleep(rng.uniform(0.0, 0.04))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            try:
                lost += content(load(path)) not in expected
            except Exception:  # noqa: BLE001  a file that nobody can read
                lost += 1
            inside += len(os.listdir(folder)) > 1
            save(rng.choice(versions), path)
            strays += len(os.listdir(folder)) - 1
    finally:
        shutil.rmtree(folder)
    return lost, strays, inside


# what others do ---------------------------------------------------------------------------------------------------------


def peers(count, seed):
    """The same damage to files of safetensors and NumPy: how many load with another content; kills of numpy.savez."""
    import safetensors.numpy

    def savez(arrays):
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    def loadz(data):
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            return dict(found)

    found = {}
    for name, write, load in (("safetensors", safetensors.numpy.save, safetensors.numpy.load), ("npz", savez, loadz)):
        rng, changed, done = random.Random(seed), 0, 0
        arrays = [{str(i): np.asarray(a) for i, a in enumerate(A.matrix.arrays() if isinstance(A, sm.Fit) else A.arrays())}
                  for A in samples()]  # fmt: skip
        arrays = [a for a in arrays if not any(np.iscomplexobj(x) for x in a.values())]
        originals = [(write(a), same_arrays(a)) for a in arrays]
        others = [data for data, _ in originals]
        for _ in range(count):
            data, expected = rng.choice(originals)
            new = mutate(data, rng, others)
            if new in others:
                continue
            done += 1
            with contextlib.suppress(Exception):
                changed += same_arrays(load(new)) != expected
        found[name] = {"files": done, "changed": changed}
    lost, _, _ = kills(
        count // 100,
        seed,
        lambda A, path: np.savez(path, A.array),
        lambda path: sm.Dense(loadz(path.read_bytes())["arr_0"]),
    )
    found["numpy.savez"] = {"kills": count // 100, "lost": lost}
    return found


def same_arrays(arrays):
    return sorted((name, content(np.asarray(a))) for name, a in arrays.items())


# the command ------------------------------------------------------------------------------------------------------------


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["--atheris"]:
        warnings.simplefilter("ignore")
        return atheris_child(pathlib.Path(argv[1]), argv[2:])
    parser = argparse.ArgumentParser(prog="python -m tests.file_torture", description="Torture for files.")
    parser.add_argument("--files", type=int, default=0, metavar="N", help="so many damaged files")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="so many savers killed")
    parser.add_argument(
        "--fuzz-seconds", type=float, default=None, metavar="S", help="at most so long, half of it atheris"
    )
    parser.add_argument(
        "--fuzz-runs", type=int, default=0, metavar="N", help="so many executions, three of four atheris"
    )
    parser.add_argument("--peers", type=int, default=0, metavar="N", help="the same damage to so many files of others")
    parser.add_argument("--seed", type=int, default=int(time.strftime("%Y%m%d")), help="default: the date")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the numbers to this file")
    args = parser.parse_args(argv)
    print(f"seed {args.seed}")
    numbers, failures, start = {}, [], time.monotonic()
    if args.files:
        found, examples = damaged_files(args.files, args.seed)
        failures += examples
        numbers["damaged files"] = {"files": sum(found.values()), **{k: found[k] for k in
                                    ("refused", "unchanged", "changed")}}  # fmt: skip
        numbers["damaged files"]["other errors"] = sum(n for k, n in found.items() if k.startswith("error"))
        print_part("damaged files", numbers["damaged files"], start)
    if args.kills:
        lost, strays, inside = kills(args.kills, args.seed)
        failures += [(f"{lost} files lost, {strays} strays", b"")] if lost or strays else []
        numbers["kills"] = {"kills": args.kills, "inside a save": inside, "lost": lost, "strays": strays}
        print_part("kills", numbers["kills"], start)
    if args.fuzz_seconds or args.fuzz_runs:
        limit = args.fuzz_seconds / 2 if args.fuzz_seconds else float("inf")
        guided, examples = atheris_fuzzing(args.seed, 3 * args.fuzz_runs // 4, min(limit, 86400))
        done, more = random_fuzzing(args.seed, (args.fuzz_runs or 10**12) - guided, limit)
        failures += examples + more
        numbers["fuzzing"] = {"executions": done + guided, "by atheris": guided, "failures": len(examples + more)}
        print_part("fuzzing", numbers["fuzzing"], start)
    if args.peers:
        for name, part in peers(args.peers, args.seed).items():
            numbers[name] = part
            print_part(name, part, start)
    for failure, data in failures:
        print(f"FAILED: {failure}\n  {data!r}")
    if args.json:
        from studies import _study

        old = json.loads(args.json.read_text())["numbers"] if args.json.exists() else {}
        made = _study.made(time.monotonic() - start)
        record = {"seed": args.seed, "made": made, "numbers": {**old, **numbers}}
        args.json.write_text(json.dumps(record, indent=1) + "\n")
        if args.json.resolve() == FIGURES:
            PAGE.write_text(documented(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")
    return 1 if failures or not any(part[next(iter(part))] for part in numbers.values()) else 0


def documented(text, record):
    """The page with the table of these numbers."""
    n = record["numbers"]
    damaged, kill, fuzz, own, npz, savez = (
        n[k] for k in ("damaged files", "kills", "fuzzing", "safetensors", "npz", "numpy.savez")
    )
    lines = [
        "| | sepmat | others, by the same mutations and kills |",
        "|---|---|---|",
        f"| damaged files that load with other content | **{damaged['changed']}** of {damaged['files']:,} "
        f"({damaged['refused']:,} refused, {damaged['unchanged']:,} load unchanged) | safetensors alone "
        f"{own['changed'] / own['files']:.1%}, npz {npz['changed'] / npz['files']:.1%} of {npz['files']:,} |",
        f"| savers killed by SIGKILL | **{kill['lost']}** files lost, **{kill['strays']}** strays after the next save, of {kill['kills']:,} "
        f"({kill['inside a save']:,} inside a save) | numpy.savez: {savez['lost']} of {savez['kills']} files lost |",
        f"| fuzz executions with anything but FormatError | **{fuzz['failures']}** of {fuzz['executions']:,} "
        f"({fuzz['by atheris']:,} by atheris) | |",
    ]
    before, rest = text.split("<!-- torture -->")
    return "\n".join([before + "<!-- torture -->", *lines, "<!-- /torture -->" + rest.split("<!-- /torture -->")[1]])


def print_part(name, numbers, start):
    print(f"{name}: " + ", ".join(f"{n:,} {k}" for k, n in numbers.items()) + f"  ({time.monotonic() - start:.0f} s)")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
