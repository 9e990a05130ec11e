"""The public API as text: every public name with its parameters. `python -m tests.package.public_api` writes it down.

Public is what `__all__` of these packages lists, and the public methods of the classes among it.
"""

import inspect
import re
from functools import cached_property
from importlib import import_module
from pathlib import Path

PACKAGES = (
    "lens_multimodal",
    "lens_multimodal.analysis",
    "lens_multimodal.atlas",
    "lens_multimodal.cli",
    "lens_multimodal.data",
    "lens_multimodal.experiments",
    "lens_multimodal.explorer",
    "lens_multimodal.hooks",
    "lens_multimodal.store",
    "lens_multimodal.views.plots",
    "lens_multimodal.train",
)

RECORDED = Path(__file__).with_name("public_api.txt")


def lines() -> list[str]:
    """One line for each public name, in alphabetical order."""
    found = []
    for package in PACKAGES:
        module = import_module(package)
        for name in module.__all__:
            found += _described(f"{package}.{name}", getattr(module, name))
    return sorted(set(found))


def _described(path: str, value: object) -> list[str]:
    if inspect.isclass(value):
        own = [base for base in reversed(value.__mro__) if base.__module__.startswith("lens_multimodal")]
        members = {name: member for base in own for name, member in vars(base).items() if not name.startswith("_")}
        methods = [
            f"{path}.{name}{_parameters(method)}"
            for name, method in members.items()
            if inspect.isroutine(inspect.unwrap(getattr(value, name)))
        ]
        annotated = [name for base in own for name in vars(base).get("__annotations__", {})]
        attributes = [f"{path}.{name}" for name in annotated if not name.startswith("_")]
        properties = [
            f"{path}.{name}" for name, member in members.items() if isinstance(member, (property, cached_property))
        ]
        return [f"{path}{_parameters(value)}", *methods, *attributes, *properties]
    return [f"{path}{_parameters(value)}" if callable(value) else path]


def _parameters(function: object) -> str:
    """Names, kinds and defaults; annotations may become wider without breaking anybody."""
    function = getattr(function, "__func__", function)
    try:
        signature = inspect.signature(inspect.unwrap(function, stop=lambda found: "__signature__" in vars(found)))
    except (TypeError, ValueError):
        return ""
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return re.sub(" at 0x[0-9a-f]+", "", text)


if __name__ == "__main__":
    RECORDED.write_text("\n".join(lines()) + "\n")
