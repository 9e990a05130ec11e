"""Extension of griffe, which reads the source for the reference: shows functions that `_public_sweep` makes.

The source assigns the result of a call, which says nothing of parameters. They are those of the call's second argument
without the first one, and the docstring is the call's last argument.
"""

import ast
import inspect
from collections.abc import Iterator
from typing import Any

import griffe

MAKER = "_public_sweep"


class SweepFunctions(griffe.Extension):
    """Replaces each attribute that holds such a function by the function."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:  # noqa: ARG002
        """Called by griffe when the source of a package has been read."""
        for module in _modules(pkg):
            for name, member in list(module.members.items()):
                value = member.value if isinstance(member, griffe.Attribute) else None
                if isinstance(value, griffe.ExprCall) and str(value.function) == MAKER:
                    module.set_member(name, _function(name, module[str(value.arguments[1])], value, member))


def _function(name: str, sweep: griffe.Function, call: griffe.ExprCall, at: griffe.Object) -> griffe.Function:
    made = griffe.Function(
        name,
        parameters=griffe.Parameters(*list(sweep.parameters)[1:]),
        returns=sweep.returns,
        lineno=at.lineno,
        endlineno=at.endlineno,
    )
    text = inspect.cleandoc(ast.literal_eval(str(call.arguments[-1])))
    made.docstring = griffe.Docstring(text, lineno=at.lineno, parent=made)
    return made


def _modules(module: griffe.Module) -> Iterator[griffe.Module]:
    yield module
    for member in module.members.values():
        if isinstance(member, griffe.Module):
            yield from _modules(member)
