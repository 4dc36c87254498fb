"""What the speed study says: ratios, claims with the number that decides, tables. Its figure is in _speed_figure.py."""

from collections.abc import Callable, Iterable
from typing import Any

from studies import _nearest, _study
from studies._race import MEDIAN, MIN, OURS

Cell = dict[str, Any]
PEER, PLAIN = 1.0, 1.1  # at most so many times the fastest peer, the best plain reference
FFT_LIMIT, GEMM_SHARE, COPY_SHARE = 1.15, 0.75, 0.7
OUT_OF_CACHE = 2**22  # bytes of X that no second-level cache holds
CALL = 10.0  # µs that a call of a small product may cost beside the arithmetic
WHERE = [("float64", "numpy"), ("float32", "numpy"), ("float64", "torch"), ("float32", "torch")]
ARRAYS = {"numpy": "NumPy arrays", "torch": "torch tensors"}
KINDS = {
    "circulant": "circulant",
    "skew_circulant": "skew-circulant",
    "toeplitz": "Toeplitz",
    "symmetric_toeplitz": "symmetric Toeplitz",
    "hankel": "Hankel",
}


# --- what a cell says ------------------------------------------------------------------------------------------------------


def label(cell: Cell) -> str:
    """The product in words, without precision and library."""
    family, n, k = cell["family"], cell.get("n", 2), cell.get("k", 1)
    if family == "overhead":
        return "2⊗2, 1 column"
    if family in ("Kronecker", "sum", "Kronecker solve"):
        d = cell.get("d", 2)
        size = f"{n}⊗{n}" if d == 2 else f"{n}⊗{n}⊗{n}" if d == 3 else f"{n}{power(d)}"
        many = "row" if cell.get("rows") else "column"
        lead = {"Kronecker": "", "sum": "8 × ", "Kronecker solve": "solve "}[family]
        return f"{lead}{size}, {k} {many}{'s' if k > 1 else ''}"
    size = f"n = 2{power(20)}" if n == 2**20 else f"n = {n}"
    many = "vector" if k == 1 else f"{k} {cell.get('layout', 'rows')}"
    if family == "fft":
        return f"{KINDS[cell['kind']]} {size}, {many}"
    if family == "displacement":
        return f"W(G, H) {size}, r = {cell['r']}, {many}"
    if family == "used once":
        return f"Toeplitz used once {size}"
    return f"circulant solve{' once' if cell['once'] else ''} {size}"


def power(d: int) -> str:
    """d as a superscript."""
    return str(d).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def where(cell: Cell) -> str:
    """Precision and library."""
    return f"{cell['dtype']}, {cell['library']}"


def seconds(cell: Cell, name: str) -> float | None:
    """The median time of an entry."""
    told = cell["entries"].get(name, {}).get("seconds")
    return float(told[MEDIAN]) if told else None


def fastest(cell: Cell, kind: str) -> tuple[str, float] | None:
    """The fastest right entry of a kind."""
    times = [(seconds(cell, name), name) for name, e in cell["entries"].items() if e["kind"] == kind]
    known = [(t, name) for t, name in times if t is not None]
    if not known:
        return None
    best, name = min(known)
    return name, best


def ratio(cell: Cell, kind: str) -> float | None:
    """Our time over that of the fastest entry of a kind."""
    mine, other = seconds(cell, OURS), fastest(cell, kind)
    return mine / other[1] if mine and other else None


def bound_by(cell: Cell) -> tuple[str, float] | None:
    """What bounds the product, and the share of it that we reach: GEMM, copy or FFT over our time."""
    mine, work = seconds(cell, OURS), cell["work"]
    pair, gemm, copy = (seconds(cell, name) for name in ("FFT", "GEMM", "copy"))
    if not mine:
        return None
    if pair:
        return "FFT", work["transforms"] * pair / mine
    if not gemm or not copy:
        return None
    arithmetic = work["flops"] / (2 * work["gemm"] ** 3 / gemm)
    memory = work["traffic"] * copy / work["once"]
    name, least = ("GEMM", arithmetic) if arithmetic >= memory else ("copy", memory)
    return name, least / mine


def of(cells: Iterable[Cell], *families: str, **more: Any) -> list[Cell]:
    """The cells of these families with these properties."""
    return [
        c for c in cells if (not families or c["family"] in families) and all(c.get(k) == v for k, v in more.items())
    ]


# --- claims ----------------------------------------------------------------------------------------------------------------


def claims(numbers: dict[str, Any]) -> dict[str, bool]:
    """The goals, each with the number that decides; only what the clock has no part in for the smoke preset."""
    cells = numbers["cells"]
    out = {
        "every product of sepmat agrees with the answer in double precision, to 1e-11 in float64 and 1e-4 in float32": all(
            c["entries"][OURS].get("error") is not None and "out" not in c["entries"][OURS] for c in cells
        )
    }
    if numbers["machine"]:
        out |= paper_claims(cells) | nearest_claims(numbers["nearest"])
    return out


def paper_claims(cells: list[Cell]) -> dict[str, bool]:
    """Ratios within one run."""
    out: dict[str, bool] = {}

    def claim(text: str, chosen: list[Cell], value: Callable[[Cell], float | None], limit: float, most: bool) -> None:
        """Every cell's value is at most (or at least) the limit; the worst one is told."""
        found = [(v, c) for c in chosen if (v := value(c)) is not None]
        if not found:
            return
        worst, cell = (max if most else min)(found, key=lambda pair: pair[0])
        good = sum(within(v, limit, most) for v, _ in found)
        text = f"{text} ({good} of {len(found)} cells; worst {worst:.2f}: {label(cell)}, {where(cell)})"
        out[text] = good == len(found)

    def beside(name: str, chosen: list[Cell]) -> None:
        """Peers of the same library; plain lines of NumPy and SciPy."""
        for library, words in ARRAYS.items():
            text = f"{name}, {words}: at most 1.0 × the fastest peer"
            claim(text, of(chosen, library=library), peer, PEER, True)
        text = f"{name}, NumPy arrays: at most 1.1 × the best plain lines"
        claim(text, of(chosen, library="numpy"), reference, PLAIN, True)

    one, two = of(cells, threads=1), of(cells, threads=2)
    kron, transforms = of(one, "Kronecker"), of(one, "fft", "displacement", "used once")
    large, small = ([c for c in transforms if (c["n"] >= 1000) == big] for big in (True, False))
    beside("Kronecker products", kron)
    for library, words in ARRAYS.items():
        many = [c for c in of(kron, library=library) if c["n"] <= 8 and c["k"] == 16 and not c.get("rows")]
        text = f"8⁶ and 2¹⁶ with 16 columns, {words}: every peer takes at least 1.5 times our time"
        claim(text, many, lambda c: inverse(peer(c)), 1.5, False)
        bound = [c for c in of(kron, library=library) if c["n"] >= 64 and c["k"] >= 16]
        text = f"sides ≥ 64, k ≥ 16, {words}: at least 0.75 of the GEMM rate"
        claim(text, bound, gemm_share, GEMM_SHARE, False)
    out_of_cache = [c for c in of(kron, library="numpy") if c["work"]["once"] >= 2 * OUT_OF_CACHE]
    memory = [c for c in out_of_cache if (b := bound_by(c)) and b[0] == "copy"]
    text = "memory-bound Kronecker products, X of 4 MiB or more: at least 0.7 of the copy rate"
    claim(text, memory, limit_share, COPY_SHARE, False)
    call = of(one, "overhead", library="numpy")
    claim("2×2 ⊗ 2×2 on NumPy: at most 25 µs a call", call, lambda c: 1e6 * (seconds(c, OURS) or 0), 25.0, True)
    beside("sums of 8 products", of(one, "sum"))
    beside("solves", of(one, "Kronecker solve", "circulant solve"))
    beside("FFT classes, n ≥ 1000", large)
    pairs = [c for c in of(large, "fft", library="numpy", layout="rows") if c["kind"] != "skew_circulant"]
    claim("one vector or rows, n ≥ 1000: at most 1.15 × one rfft and one irfft", pairs, limit_ratio, FFT_LIMIT, True)
    for library, words in ARRAYS.items():
        text = f"FFT classes, n ≤ 512, {words}: at most 1.0 × the fastest peer"
        claim(text, of(small, library=library), peer, PEER, True)
    text = f"FFT classes, n ≤ 512, NumPy arrays: at most 1.1 × the best plain lines and {CALL:g} µs a call"
    claim(text, of(small, library="numpy"), excess, CALL, True)
    dense = [c for c in one if "D" in c["entries"] and c["family"] != "overhead"]
    claim("never slower than dense by more than a tenth", dense, dense_ratio, PLAIN, True)
    text = f"never slower than dense by more than a tenth and {CALL:g} µs a call"
    claim(text, dense, lambda c: excess(c, ("D", seconds(c, "D") or 0.0)), CALL, True)
    beside("two threads", two)
    return out


def within(value: float, limit: float, most: bool) -> bool:
    """value against its limit, as a reader sees it: with two digits."""
    return round(value, 2) <= limit if most else round(value, 2) >= limit


def peer(cell: Cell) -> float | None:
    """Our time over that of the fastest peer."""
    return ratio(cell, "peer")


def reference(cell: Cell) -> float | None:
    """Our time over that of the best plain reference."""
    return ratio(cell, "reference")


def excess(cell: Cell, other: tuple[str, float] | None = None) -> float | None:
    """What is left of our time, in µs, after 1.1 times that of the best plain lines (or of another entry)."""
    mine, other = seconds(cell, OURS), other or fastest(cell, "reference")
    return 1e6 * (mine - PLAIN * other[1]) if mine and other else None


def inverse(value: float | None) -> float | None:
    """1 / value."""
    return None if value is None else 1 / value


def limit_share(cell: Cell) -> float | None:
    """The share of what bounds the product."""
    found = bound_by(cell)
    return found and found[1]


def limit_ratio(cell: Cell) -> float | None:
    """Our time over the limit."""
    return inverse(limit_share(cell))


def gemm_share(cell: Cell) -> float | None:
    """Our flops a second over those of the square GEMM."""
    mine, gemm, work = seconds(cell, OURS), seconds(cell, "GEMM"), cell["work"]
    return work["flops"] / mine / (2 * work["gemm"] ** 3 / gemm) if mine and gemm else None


def dense_ratio(cell: Cell) -> float | None:
    """Our time over that of the dense product."""
    mine, dense = seconds(cell, OURS), seconds(cell, "D")
    return mine / dense if mine and dense else None


def nearest_claims(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """nearest_kronecker beside the full decomposition."""
    worst = 1 + max(row["methods"][OURS]["above optimum"] for row in rows)
    gain = min(faster(row, OURS) for row in rows)
    exact = max(row["methods"][_nearest.EXACT]["above optimum"] for row in rows)
    told = max(row["methods"][OURS]["reported off true"] for row in rows)
    size = f"nearest_kronecker, {rows[0]['n']}², {rows[0]['terms']} terms"
    return {
        f"{size}: at least 30 times faster than the full SVD on every matrix (least {gain:.1f})": gain >= 30,
        f"{size}: at most 1.003 of the optimum on every matrix (worst {worst:.4f})": worst <= 1.003,
        f"{size}: the error reported is the true one to 1e-6": told <= 1e-6,
        f"{size}, exact=True: the optimum to 1e-12": exact <= 1e-12,
    }


def faster(row: dict[str, Any], method: str) -> float:
    """How many times as long the faster full SVD takes."""
    full = min(row["methods"][name]["seconds"][MEDIAN] for name in _nearest.FULL)
    return float(full / row["methods"][method]["seconds"][MEDIAN])


# --- tables ----------------------------------------------------------------------------------------------------------------


GROUPS = {  # title: families
    "Kronecker products": ("overhead", "Kronecker"),
    "Sums of 8 Kronecker products, solves": ("sum", "Kronecker solve", "circulant solve"),
    "Circulant, Toeplitz and Hankel": ("fft", "used once"),
    "Low displacement rank": ("displacement",),
}


def tables(numbers: dict[str, Any]) -> str:
    """Peers, machine, a table for each group of cells, the nearest sums."""
    parts = ["Peers: " + ", ".join(f"{name} {version}" for name, version in numbers["peers"].items()) + "."]
    parts.append("BLAS: " + "; ".join(numbers["blas"]) + ".")
    if numbers["machine"]:
        parts.append("The machine, one thread:\n\n" + machine_table(numbers["machine"]))
    for title, families in GROUPS.items():
        for threads in (1, 2):
            cells = of(numbers["cells"], *families, threads=threads)
            if cells:
                words = title if threads == 1 else f"{title}, two threads (wall)"
                parts.append(f"{words}:\n\n" + cell_table(cells))
    parts.append(nearest_table(numbers["nearest"]))
    return "\n\n".join(parts)


def cell_table(cells: list[Cell]) -> str:
    """A row a product, a column a precision and library: time; ratio to peer, to plain lines; share of the limit."""
    there = {where(c) for c in cells}
    columns = [words for dtype, library in WHERE if (words := f"{dtype}, {library}") in there]
    rows: dict[str, dict[str, str]] = {}
    for c in cells:
        row = rows.setdefault(label(c), {})
        row[where(c)] = cell_text(c)
        row.setdefault("route", c["route"] or "–")
    head = ["", *columns, f"route, {columns[0]}"]
    return _study.table(head, [[name, *(row.get(w, "") for w in (*columns, "route"))] for name, row in rows.items()])


def cell_text(cell: Cell) -> str:
    """What a cell of the table says."""
    mine = seconds(cell, OURS)
    if mine is None:
        return f"{cell['entries'][OURS].get('out', '')}"
    parts = [short(mine)]
    for kind in ("peer", "reference"):
        found = fastest(cell, kind)
        parts.append(f"{mine / found[1]:.2f} {found[0]}" if found else "–")
    share = bound_by(cell)
    parts.append(f"{100 * share[1]:.0f} % {share[0]}" if share else "–")
    return "; ".join(parts)


def short(t: float) -> str:
    """Seconds with a unit and three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if t >= size:
            return f"{t / size:.3g} {unit}"
    return f"{t / 1e-6:.3g} µs"


def machine_table(machine: dict[str, Any]) -> str:
    """Rates from the medians, and from the minima."""
    rows = []
    for name, told in machine.items():
        what, size = name.split()[:2]
        rates = []
        for key in (MEDIAN, MIN):
            t = told["seconds"][key]
            if what == "GEMM":
                rates.append(f"{2e-9 * int(size) ** 3 / t:.1f} GFLOP/s")
            elif what == "copy":
                rates.append(f"{2e-9 * 1024 * int(size) / t:.1f} GB/s")
            else:
                rates.append(short(t))
        rows.append([name, *rates])
    return _study.table(["", "median", "best"], rows)


def nearest_table(rows: list[dict[str, Any]]) -> str:
    """Time of every method, and its error over the optimum."""
    head = ["matrix", *rows[0]["methods"]]
    body = []
    for row in rows:
        cells = []
        for told in row["methods"].values():
            t, e = told["seconds"][MEDIAN], told["above optimum"]
            cells.append(f"{short(t)}, {1 + e:.4f}")
        body.append([row["matrix"], *cells])
    text = f"nearest_kronecker, {rows[0]['n']} × {rows[0]['n']}, {rows[0]['terms']} terms: time, error over the optimum"
    return f"{text}:\n\n" + _study.table(head, body)
