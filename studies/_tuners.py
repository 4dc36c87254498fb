"""The ways to fine-tune that the studies compare: one table for accuracy and for speed.

A tuner is a name in figures and tables, a look, a PEFT configuration, and the learning rates to choose from. Without a
configuration it is the head alone, or everything.
"""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

OURS, PEERS, LIMITS = "sepmat", "PEFT", "limit"
REFERENCE = "lora_8"  # what the others are compared with


@dataclasses.dataclass(frozen=True)
class Tuner:
    """One way to fine-tune; `place` says which layers of a model it is attached to."""

    label: str
    kind: str  # sepmat, PEFT, or limit: the head alone, everything
    colour: str
    marker: str
    config: str = ""  # the class of its configuration in peft or sepmat.peft
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    rates: tuple[float, ...] = (
        1e-3,
        3e-3,
        1e-2,
    )  # to begin with: where the first or last is best, the next one is tried
    place: str = "projections"  # query and value; or "outputs": the last linear layer of each sub-layer

    def configuration(self, targets: Sequence[str] | str, save: Sequence[str] | None = None) -> Any:
        """The PEFT configuration for these layers; the modules to save are trained whole."""
        package = importlib.import_module("sepmat.peft" if self.kind == OURS else "peft")
        more = {"modules_to_save": list(save)} if save else {}
        return getattr(package, self.config)(target_modules=targets, **more, **self.options)

    def look(self, **more: Any) -> dict[str, Any]:
        """Keyword arguments that draw it as it is drawn everywhere."""
        size = 8 if self.marker in "XP*" else 6
        edge = {"markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.6}
        return {"label": self.label, "color": self.colour, "marker": self.marker} | edge | more


def tuners(n: int) -> dict[str, Tuner]:
    """All tuners of square layers of width n."""
    slow = (3e-4, 1e-3, 3e-3)  # structures of a single factor: each number moves n entries at once

    def lora(r: int, marker: str) -> Tuner:
        return Tuner(f"LoRA r = {r}", PEERS, "#222222", marker, "LoraConfig", {"r": r, "lora_alpha": 2 * r})

    def lsr(r: int, terms: int, marker: str) -> Tuner:
        return Tuner(f"LSR r = {r}, s = {terms}", OURS, "#D55E00", marker, "LSRConfig", {"r": r, "terms": terms})

    def surm(label: str, structure: str, colour: str, marker: str, **more: Any) -> Tuner:
        options = {"structure": structure} | more.pop("options", {})
        return Tuner(label, OURS, colour, marker, "SURMConfig", options, **more)

    def c3a(block: int, marker: str) -> Tuner:
        return Tuner(f"C3A b = {block}", PEERS, "#888888", marker, "C3AConfig", {"block_size": block}, (0.1, 0.3, 1.0))

    return {
        "head": Tuner("head alone", LIMITS, "#888888", "*"),
        "lora_8": lora(8, "o"),
        "lora_1": lora(1, "h"),
        "lora_16": lora(16, "p"),
        "lokr": Tuner("LoKr r = 8", PEERS, "#888888", "s", "LoKrConfig", {"r": 8, "alpha": 8}),
        "c3a": c3a(n, "^"),
        "c3a_8": c3a(n // 8, "v"),
        "lsr_4": lsr(4, 16, "P"),
        "lsr_16": lsr(16, 8, "X"),
        "circulant": surm("circulant", "circulant", "#0072B2", "^", rates=slow),
        "symmetric_toeplitz": surm("symmetric Toeplitz", "symmetric_toeplitz", "#009E73", "d", rates=slow),
        "toeplitz": surm("Toeplitz", "toeplitz", "#009E73", "D", rates=slow),
        "kronecker": surm("Kronecker", "kronecker", "#E69F00", "s"),
        "ldr": surm("low displacement rank, r = 1", "ldr", "#CC79A7", "X", options={"r": 1}),
        "adapter": Tuner(
            "circulant adapter",
            OURS,
            "#56B4E9",
            "P",
            "StructuredAdapterConfig",
            {"structure": "circulant"},
            rates=slow,
            place="outputs",
        ),
        "full": Tuner("everything", LIMITS, "#222222", "*", rates=(3e-5, 1e-4, 3e-4)),
    }
