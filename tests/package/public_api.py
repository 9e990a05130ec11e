"""The public API as text: every public name with its parameters. `python -m tests.package.public_api` writes it down.

Public is what `__all__` of these packages lists, and the public methods of the classes among it.
"""

import inspect
from functools import cached_property
from importlib import import_module
from pathlib import Path

PACKAGES = (
    "lens_multimodal",
    "lens_multimodal.analysis",
    "lens_multimodal.analysis.patching.sweeps",
    "lens_multimodal.cli",
    "lens_multimodal.data",
    "lens_multimodal.experiments",
    "lens_multimodal.explorer",
    "lens_multimodal.hooks",
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
        methods = [
            f"{path}.{name}{_parameters(method)}"
            for name, method in vars(value).items()
            if not name.startswith("_") and inspect.isroutine(inspect.unwrap(getattr(value, name)))
        ]
        attributes = [f"{path}.{name}" for name in getattr(value, "__annotations__", {}) if not name.startswith("_")]
        properties = [
            f"{path}.{name}"
            for name, member in vars(value).items()
            if not name.startswith("_") and isinstance(member, (property, cached_property))
        ]
        return [f"{path}{_parameters(value)}", *methods, *attributes, *properties]
    return [f"{path}{_parameters(value)}" if callable(value) else path]


def _parameters(function: object) -> str:
    """Names, kinds and defaults; annotations may become wider without breaking anybody."""
    function = getattr(function, "__func__", function)
    try:
        signature = inspect.signature(inspect.unwrap(function))
    except (TypeError, ValueError):
        return ""
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return text.replace(" object at 0x", "~").split("~")[0] if " object at 0x" in text else text


if __name__ == "__main__":
    RECORDED.write_text("\n".join(lines()) + "\n")
