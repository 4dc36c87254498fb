"""The torch bridge: matrices with structure as trainable layers and as updates of frozen ones.

All mathematics is that of the core's classes on torch tensors; the modules hold parameters and initialise them.
"""

try:
    import torch  # noqa: F401
except ImportError:
    from ..errors import BackendError

    raise BackendError(
        "sepmat.nn", "torch", "not installed", "torch >= 2.6", "Install it with: python -m pip install 'sepmat[torch]'"
    ) from None

from .adapted import AdaptedLinear, adapt, merge_and_unload
from .advise import Advice, advise, deltas, gradients
from .bottleneck import Bottleneck, add_bottlenecks, positions
from .contract import Parametrisation
from .from_delta import from_delta, load_delta, load_deltas
from .parametrisations import PARAMETRISATIONS, parametrisation
from .update import StructuredLinear, StructuredUpdate

__all__ = [
    "PARAMETRISATIONS",
    "AdaptedLinear",
    "Advice",
    "Bottleneck",
    "Parametrisation",
    "StructuredLinear",
    "StructuredUpdate",
    "adapt",
    "add_bottlenecks",
    "advise",
    "deltas",
    "from_delta",
    "gradients",
    "load_delta",
    "load_deltas",
    "merge_and_unload",
    "parametrisation",
    "positions",
]
