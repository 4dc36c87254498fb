"""Methods of PEFT: LSR-Adapt, SURM and structured bottleneck adapters. Importing this module registers them.

>>> import torch
>>> from peft import get_peft_model
>>> from sepmat.peft import SURMConfig
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
>>> model = get_peft_model(model, SURMConfig(structure="toeplitz", target_modules=["0"]))
>>> [name for name, p in model.named_parameters() if p.requires_grad]
['base_model.model.0.surm_update.default.c', 'base_model.model.0.surm_update.default.r']
"""

from ..errors import BackendError

try:
    import peft as _peft  # noqa: F401
except ImportError as error:
    raise BackendError(
        "sepmat.peft",
        "PEFT",
        "not installed",
        "peft 0.20 or newer",
        "Install it with: python -m pip install 'sepmat[peft]'",
    ) from error

from .advised import configs
from .config import LSRConfig, StructuredAdapterConfig, SURMConfig
from .export import lora_factors, to_lora
from .model import LSRModel, StructuredAdapterModel, SURMModel
from .register import register

register(LSRConfig, LSRModel)
register(SURMConfig, SURMModel)
register(StructuredAdapterConfig, StructuredAdapterModel)

__all__ = [
    "LSRConfig",
    "LSRModel",
    "SURMConfig",
    "SURMModel",
    "StructuredAdapterConfig",
    "StructuredAdapterModel",
    "lora_factors",
    "to_lora",
    "configs",
]
