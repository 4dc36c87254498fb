"""The arrows point down: every import of the package, also those inside functions, against the layers of design.md."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

import sepmat

ROOT = Path(sepmat.__file__).parent

# (layer, place inside it): a module imports only what stands strictly lower, so siblings do not import each other.
LAYERS = {
    "errors": (0, 0),
    "_array": (0, 1),
    "_check": (0, 2),
    "_container": (0, 3),
    "_bounds": (0, 0),
    "kernels": (1, 0),
    "frozen": (2, 0),
    "matrix": (2, 1),
    "linalg": (2, 2),
    "lazy": (2, 3),
    "inverses": (2, 3),
    "transformed": (2, 3),
    "basic": (3, 0),  # Dense and Identity serve the two families beside it
    "low_rank": (3, 1),
    "kronecker": (3, 1),
    "toeplitz": (3, 1),
    "kronecker_sum": (3, 2),
    "multilevel": (3, 2),
    "fourier_basis": (3, 2),
    "separated": (3, 3),
    "algebra": (3, 4),
    "commuting": (3, 4),
    "displacement": (3, 2),
    "borders": (3, 3),
    "generators": (3, 3),
    "inverse_generators": (3, 3),
    "cauchy_like": (3, 4),
    "expressivity": (3, 3),
    "augmented": (3, 5),
    "toeplitz_lstsq": (3, 6),
    "woodbury": (3, 4),
    "explain": (4, 0),
    "fit": (4, 0),
    "compress_displacement": (4, 1),
    "nearest": (4, 1),
    "rearranged": (4, 1),
    "tree": (4, 1),
    "exponential_sums": (4, 1),
    "symmetric_powers": (4, 1),
    "symmetric_sums": (4, 2),
    "cp": (4, 2),  # starts from the tree
    "sources": (4, 2),
    "modes": (4, 2),
    "nearest_kronecker": (4, 3),
    "nearest_displacement": (4, 2),  # starts from the closed forms
    "approximate": (4, 4),
    "compress": (4, 3),
    "lsr": (4, 3),
    "nearest_separated": (4, 4),
    "operators": (4, 4),
    "equations": (4, 3),
    "als_solve": (4, 4),
    "functions": (4, 5),
    "eigenpairs": (4, 6),
    "preconditioners": (4, 6),
    "io": (5, 0),
    "restarts": (4, 0),
    "interop": (5, 0),
    "nn": (5, 0),
    "peft": (5, 1),
    "selftest": (5, 1),
    "__main__": (5, 2),
    "__init__": (9, 0),
}
# The generic core: written on the array API, so that it runs unchanged on every array library.
CORE = {name for name, layer in LAYERS.items() if (1, 0) < layer < (5, 0)}
GUESTS = {
    "torch",
    "array_api_strict",
    "cupy",
    "cupyx",
    "cupy_backends",
    "dask",
    "matplotlib",
    "peft",
    "transformers",
    "safetensors",
    "tqdm",
    "sklearn",
    "statsmodels",
}
FILES = sorted(ROOT.rglob("*.py"))


def name_of(file):
    """ "kernels" for everything in that folder, else the name of the module."""
    parts = file.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else file.stem


def imports(file):
    """(line, absolute dotted name, whether at the top of the module) of everything a file imports."""
    package = ["sepmat", *file.relative_to(ROOT).parts[:-1]]
    tree = ast.parse(file.read_text())
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}", id(node) in top
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield node.lineno, ast.unparse(node.args[0]).strip("'\""), False


def target(dotted):
    """The module of the package that a dotted name lies in, or None for other packages."""
    parts = dotted.split(".")
    if parts[0] != "sepmat":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "__init__"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_down(file):
    name = name_of(file)
    assert name in LAYERS, f"{name} has no layer yet: give it one in tests/test_layers.py and docs/design.md"
    for line, dotted, _ in imports(file):
        used = target(dotted)
        inside_a_package = name == used in {"_array", "_check", "kernels", "cp", "sources", "nn", "peft"}
        if used is not None and not inside_a_package and name != "__main__":
            assert LAYERS[used] < LAYERS[name], f"{file.name}:{line}: {name} imports {dotted}, which is not below it"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_doors(file):
    """One door to array-api-compat; no array library in the core; guests only inside functions; NumPy by name only."""
    name = name_of(file)
    for line, dotted, top in imports(file):
        package = dotted.split(".")[0]
        here = f"{file.name}:{line}: {dotted}"
        if package == "array_api_compat":
            assert name == "_array", f"{here}: only _array may"
        if name in CORE:
            assert package not in {"numpy", "torch", "cupy", "array_api_strict"}, f"{here}: the core is generic"
        if package in GUESTS:
            allowed = {"torch", "cuda", "nn", "peft"} & set(file.parts)
            assert not top or allowed, f"{here}: import it when it is used"
        if package not in {"sepmat", "array_api_compat", "numpy", "scipy"} | GUESTS:
            assert package in sys.stdlib_module_names, f"{here}: not a dependency"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_assert_no_environment_no_global_random_state(file):
    """python -O removes assertions; settings and hidden state make a result depend on what it does not show."""
    for node in ast.walk(ast.parse(file.read_text())):
        assert not isinstance(node, ast.Assert), f"{file.name}:{node.lineno}: assert"
        assert not isinstance(node, ast.Global), f"{file.name}:{node.lineno}: global"
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            assert not text.startswith(("os.environ", "np.random.seed")), f"{file.name}:{node.lineno}: {text}"


def test_no_circles():
    """Nor between the files of a folder, counting the imports inside functions."""
    files = {
        ".".join(["sepmat", *f.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__"): f for f in FILES
    }
    arrows = {name: {d if d in files else d.rpartition(".")[0] for _, d, _ in imports(f)} for name, f in files.items()}
    graphlib.TopologicalSorter({name: (found & set(files)) - {name} for name, found in arrows.items()}).prepare()


def test_this_test_would_notice():
    """The checker itself: it sees imports inside functions, relative ones, and from-imports of submodules."""
    found = [dotted for _, dotted, _ in imports(ROOT / "kronecker.py")]
    assert "sepmat.basic.Dense" in found and "sepmat._array" in found and "sepmat.kernels.kron.kron_matmul" in found
    assert target("sepmat.kernels.kron") == "kernels" and target("numpy.linalg") is None
    assert len(FILES) > 10 and any(not top for f in FILES for _, _, top in imports(f))
