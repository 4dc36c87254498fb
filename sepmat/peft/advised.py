"""The advice of `sepmat.nn.advise` as configurations of PEFT."""

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig, PeftConfig

from ..errors import UnsupportedError
from ..nn.advise import Advice
from ..nn.contract import Parametrisation
from .config import LSRConfig, SURMConfig

__all__ = ["configs"]


def configs(advice: Advice, **common: Any) -> dict[str, PeftConfig]:
    """The advice for every layer as adapters of one model: the name of an adapter → its configuration.

    Layers with the same structure and the same options share an adapter, "lora" is PEFT's own. common: what all get, such as
    task_type. A model of PEFT has adapters of one method (SURM, LSR or LoRA), so advise on structures of one; they may all be active:

    >>> import torch
    >>> from peft import get_peft_model
    >>> from sepmat.nn import advise
    >>> from sepmat.peft import configs
    >>> model = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU(), torch.nn.Linear(6, 6))
    >>> wanted = {"0": torch.ones(6, 6).tril(), "2": torch.kron(torch.eye(2), torch.rand(3, 3))}
    >>> (first, config), *others = configs(advise(wanted, 28, ["toeplitz", "kronecker"])).items()
    >>> model = get_peft_model(model, config, adapter_name=first)
    >>> for name, config in others:
    ...     model.add_adapter(name, config)
    >>> model.base_model.set_adapter([first, *(name for name, _ in others)])
    >>> model.base_model.active_adapters
    ['toeplitz', 'kronecker']

    Raises UnsupportedError for structures of several methods, or of none ("dense").
    """
    groups: dict[tuple[str, str], list[str]] = {}
    kinds: dict[tuple[str, str], Parametrisation] = {}
    for layer in advice.layers:
        p = layer.parametrisation
        key = (p.name, repr(sorted(p.options.items())))
        kinds[key] = p
        groups.setdefault(key, []).append(layer.name)
    found: dict[str, PeftConfig] = {}
    for key, layers in groups.items():
        alike = [name for name, _ in groups if name == key[0]]
        name = key[0] if len(alike) == 1 else f"{key[0]}_{sum(n.startswith(key[0] + '_') for n in found) + 1}"
        found[name] = _config(kinds[key], {**common, "target_modules": layers})
    methods = sorted({str(config.peft_type.value) for config in found.values()})
    if len(methods) > 1:
        advice_text = "Use advice.adapt(model), or advise(…, structures=…) of one method"
        raise UnsupportedError(
            "configs", "advice", f"structures of {' and '.join(methods)}", "of one method", advice_text
        )
    return found


def _config(p: Parametrisation, common: Mapping[str, Any]) -> PeftConfig:
    options = {{"rank": "r"}.get(name, name): value for name, value in p.options.items() if value is not None}
    if p.peft == "lora":
        return LoraConfig(lora_alpha=p.options["rank"], **options, **common)
    if p.peft == LSRConfig.method:
        return LSRConfig(**options, **common)
    if p.peft == SURMConfig.method:
        return SURMConfig(structure=p.name, **options, **common)
    advice = "Use advice.adapt(model), or leave the structure out of advise(…, structures=…)"
    raise UnsupportedError("configs", "advice", repr(p.name), "a structure with a method of PEFT", advice)
