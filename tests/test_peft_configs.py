"""sepmat.peft: registration, configurations that make no sense, counts of the papers, the table in the page."""

import copy
import json
import pathlib
import pickle
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("peft", reason="PEFT is not installed")

from peft_models import (  # noqa: E402  isort: skip  (it hides a torchvision that does not load)
    FILTERS,
    METHODS,
    TABLE,
    mlp,
    output,
    table,
)
import peft  # noqa: E402
from packaging.version import Version  # noqa: E402
from peft import PeftModel, PeftType, get_peft_model  # noqa: E402
from torch import nn  # noqa: E402

import sepmat.peft as sp  # noqa: E402
from sepmat.errors import ArgumentError, BackendError  # noqa: E402
from sepmat.peft.register import add_peft_type, register  # noqa: E402

pytestmark = FILTERS

# ------------------------------------------------------------------------------------------- registration, configurations


def test_members_of_the_enumeration():
    for name in ("LSR", "SURM", "STRUCTURED_ADAPTER"):
        member = PeftType[name]
        assert member is PeftType(name) is getattr(PeftType, name) and member == name and member.value == name
        assert isinstance(member, PeftType) and member in PeftType and list(PeftType).count(member) == 1
        assert copy.deepcopy(member) is member and pickle.loads(pickle.dumps(member)) is member
        assert json.loads(json.dumps(member)) == name and repr(member) == f"<PeftType.{name}: '{name}'>"
        assert add_peft_type(name) is member and len(set(PeftType)) == len(PeftType)
        prefix = peft.PEFT_TYPE_TO_PREFIX_MAPPING[member] if hasattr(peft, "PEFT_TYPE_TO_PREFIX_MAPPING") else None
        assert prefix in (None, name.lower() + "_")
    with pytest.raises(AttributeError):
        PeftType.LSR = 1


def test_registration_twice_and_a_taken_name():
    register(sp.SURMConfig, sp.SURMModel)

    class Other:
        method = "surm"

    with pytest.raises(BackendError, match=r"SURM is sepmat\.peft\.config\.SURMConfig already"):
        register(Other, sp.SURMModel)


def test_without_peft():
    """An import without PEFT says what to install."""
    code = "import sys; sys.modules['peft'] = None\nimport sepmat\ntry:\n    import sepmat.peft\nexcept Exception as e:\n    print(type(e).__name__, e)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.startswith("BackendError sepmat.peft: PEFT: not installed"), run.stderr


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: sp.SURMConfig(structure="hankel"), "structure: 'hankel'; expected one of circulant"),
        (lambda: sp.SURMConfig(structure="circulant", r=2), "r: 2; expected nothing: 'circulant' has factors"),
        (lambda: sp.SURMConfig(structure="ldr", factors=2), "factors: 2; expected nothing: 'ldr' has r"),
        (lambda: sp.SURMConfig(structure="toeplitz", rank_pattern={"q": 1}), "rank_pattern: .*'toeplitz' has factors"),
        (lambda: sp.StructuredAdapterConfig(structure="dense", r=2), "'dense' has no options"),
        (lambda: sp.StructuredAdapterConfig(position="lora"), "position: 'lora'; expected 'houlsby' or 'pfeiffer'"),
        (lambda: sp.LSRConfig(alpha=float("nan")), "alpha: nan; expected a finite number"),
        (lambda: sp.LSRConfig(alpha_pattern={"q": "2"}), "alpha: '2'; expected a finite number"),
        (lambda: sp.LSRConfig(bias="surm_only"), "bias: 'surm_only'; expected one of none, all, lsr_only"),
        (lambda: sp.LSRConfig(target_modules=".*q", layers_to_transform=0), "layers_to_transform"),
        (lambda: sp.LSRConfig(target_modules=["q"], layers_pattern="h"), "layers_pattern: given alone"),
    ],
)
def test_configurations_that_make_no_sense(make, text):
    with pytest.raises(ArgumentError, match=text):
        make()


def test_unknown_task_type():
    with pytest.raises(ValueError, match="Invalid task type"):
        sp.LSRConfig(task_type="nothing")


def test_shapes_survive_json(tmp_path):
    config = sp.LSRConfig(shapes=((6, 8), (6, 3)), r=3, target_modules=["up"], init_weights=False)
    model = get_peft_model(mlp(), config)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(mlp(), tmp_path, is_trainable=True)
    assert torch.equal(output(loaded), output(model))


def test_counts_of_the_papers():
    """3,584 for LSR, 2·768 stored for circulants with two factors as for Toeplitz pairs' circulant part, 12,288 for LoRA."""
    for config, count in (
        (sp.LSRConfig(r=4, terms=16, target_modules=["0"]), 3584),
        (sp.LSRConfig(r=16, terms=8, target_modules=["0"]), 3584),
        (sp.SURMConfig(structure="circulant", factors=2, target_modules=["0"]), 1536),
        (sp.SURMConfig(structure="symmetric_toeplitz", factors=2, target_modules=["0"]), 1536),
        (sp.SURMConfig(structure="kronecker", r=8, target_modules=["0"]), 1536),
        (sp.StructuredAdapterConfig(structure="circulant", factors=2, target_modules=["0"]), 1536 + 768),
    ):
        model = get_peft_model(nn.Sequential(nn.Linear(768, 768)), config)
        assert model.get_nb_trainable_parameters()[0] == count


def test_the_table_in_the_page():
    """docs/fine-tuning.md shows the table that `python tests/peft_models.py` prints."""
    page, shown = pathlib.Path(__file__).parents[1] / "docs" / "fine-tuning.md", table()
    rows = [cells for operations in TABLE.values() for cells in operations.values()]
    assert len(rows) >= 35 and all(set(cells) == set(METHODS) for cells in rows)
    assert shown in page.read_text(), "run python tests/peft_models.py and paste what it prints"


def test_versions():
    assert Version(peft.__version__) >= Version("0.20.0")
