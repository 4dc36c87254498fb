"""torch.export and torch.compile with open sizes: one graph for every number of rows, of every structure."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from nn_cases import gaussian, update  # noqa: E402

from sepmat import nn as snn  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, about what it traces

# one structure for each way a product is computed; "ldr" and "kronecker 3 terms" take terms in blocks, as many as rows allow
KEYS = ["circulant", "skew_circulant", "toeplitz", "kronecker", "kronecker rank 2", "kronecker 3 terms", "ldr 2", "lsr"]


@pytest.mark.parametrize("key", KEYS)
def test_export_keeps_the_number_of_rows_open(key):
    layer = update(key, (8, 12), cls=snn.StructuredLinear, dtype=torch.float64)
    rows = torch.export.Dim("rows")
    exported = torch.export.export(layer, (gaussian(5, 12),), dynamic_shapes=({0: rows},))
    assert [r.upper > 2**40 for r in exported.range_constraints.values()] == [True]
    for x in (gaussian(9, 12), gaussian(1, 12), gaussian(400, 12)):
        torch.testing.assert_close(exported.module()(x), layer(x))


def test_compile_with_open_sizes():
    """dynamic=True makes symbols of Python numbers too: roots of unity must not multiply one by a complex number."""
    torch._dynamo.reset()
    layer = update("skew_circulant", (8, 12), cls=snn.StructuredLinear, dtype=torch.float64)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for x in (gaussian(5, 12), gaussian(9, 12)):
        torch.testing.assert_close(compiled(x), layer(x))
