"""Makes methods of this package known to PEFT.

PEFT has no hook for methods of other packages: `register_peft_method` accepts only members of the closed enumeration
`PeftType`. So real members are added to it, once, and everything else is PEFT's public way. A string in place of a
member would do for most of PEFT, but transformers asks for `peft_type.value`.
"""

from typing import Any

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

from ..errors import BackendError

__all__ = ["add_peft_type", "register"]


def add_peft_type(name: str) -> Any:
    """The member of PeftType of this name, which is added where it is missing.

    The tables that Enum fills when a class is made (the same in Python 3.11 to 3.14) are filled for one more member, so
    that look-up by attribute, name and value, iteration, JSON, pickling and copies work as for the others.
    """
    if name in PeftType.__members__:
        return PeftType[name]
    member = str.__new__(PeftType, name)
    member._name_ = member._value_ = name
    member._sort_order_ = len(PeftType._member_names_)
    member.__objclass__ = PeftType
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member


def register(config: Any, model: Any) -> None:
    """Register a method by its configuration and its model; again with the same classes, it does nothing.

    The prefix of its parameters must be its name and "_": transformers derives it so.
    """
    name = config.method
    member = add_peft_type(name.upper())
    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(member)
    if known is None:
        register_peft_method(name=name, config_cls=config, model_cls=model, prefix=f"{name}_")
    elif (known.__module__, known.__qualname__) != (config.__module__, config.__qualname__):
        raise BackendError(
            "sepmat.peft",
            "PEFT",
            f"{name.upper()} is {known.__module__}.{known.__qualname__} already",
            "a name that no other package has taken",
            "Import only one package that brings this method",
        )
