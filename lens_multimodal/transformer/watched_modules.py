"""Whether the modules of a model are unchanged, and whether they have hooks."""

import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain, repeat
from operator import is_, itemgetter
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules import module as of_all_modules

Hook = TypeVar("Hook", bound=Callable[..., Any])

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS_OF = itemgetter(*HOOKS)
HOOK_FIELDS = (
    *HOOKS, "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs",
)  # fmt: skip
"""Where a module keeps its hooks."""

MODEL, HOOK_POINT, WRAPPER, COPIED, SHARED = "model", "hook point", "wrapper", "copied", "shared"
"""The roles of modules: the bridge itself, a TransformerLens hook point, a wrapper around a Hugging Face module,
a Hugging Face module of which there is a copy, or one that is used as it is."""


def harmless(hook: Hook) -> Hook:
    """Decorate a PyTorch hook of this library that a pass without the bridge's wrappers does not need."""
    hook.harmless = True  # type: ignore[attr-defined]
    return hook


def taken_along(hook: Hook) -> Hook:
    """Decorate a PyTorch hook of this library that copies of its module need as well."""
    hook.taken_along = True  # type: ignore[attr-defined]
    return hook


def hooks_taken_along(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The hook fields of a copy of a module, from the fields of the module."""
    ids = {number for name in HOOKS for number, hook in fields[name].items() if _is_taken_along(hook)}
    return {
        name: OrderedDict((number, value) for number, value in fields[name].items() if number in ids)
        for name in HOOK_FIELDS
        if name in fields
    }


class WatchedModules:
    """Modules by their paths, and the role of each, as they are now."""

    def __init__(self, modules: Iterable[tuple[str, nn.Module, str]]) -> None:
        self._modules = [_Watched(path, module, part) for path, module, part in modules]
        self._quiet: _Quiet | None = None

    def look(self) -> tuple[bool, str | None]:
        """Whether submodules, classes or settings have changed since they were first seen; and an obstacle: something
        that acts in these modules but would not act in copies of them.

        Obstacles are hooks and methods of other code, hooks on all modules of the process, weights of wrappers, and
        training mode.
        """
        if any(vars(of_all_modules)[name] for name in _GLOBAL_HOOKS):
            return False, "a hook is on all modules of this process"
        if self._quiet is not None and self._quiet.is_as_before():
            return _look(self._quiet.others)
        found = _look(self._modules)
        if found == (False, None):
            self._quiet = _Quiet(self._modules, () if self._quiet is None else self._quiet.others)
        return found


def _look(modules: Iterable["_Watched"]) -> tuple[bool, str | None]:
    changed = False
    for watched in modules:
        fields = watched.fields or vars(watched.module())
        if obstacle := watched.obstacle(fields):
            return changed, obstacle
        changed = changed or (watched.part != HOOK_POINT and watched.changed(fields))
    return changed, None


class _Quiet:
    """Modules without any hook, as a look found them unchanged and free of obstacles.

    The check runs before every forward pass, over hundreds of modules with thousands of fields, so it leaves all loops
    to functions written in C.

    Attributes: others: those that have hooks or had some, to be looked at one by one, and the model itself.
    """

    def __init__(self, modules: list["_Watched"], others: Collection["_Watched"]) -> None:
        self.others = [
            watched
            for watched in modules
            if watched.part == MODEL
            or watched in others
            or any(watched.taken_along.values())
            or any(_HOOKS_OF(watched.fields))
        ]
        rest = [watched for watched in modules if watched not in self.others]
        self._all = [watched.fields for watched in rest]
        inner = [watched for watched in rest if watched.part != HOOK_POINT]
        self._inner = [watched.fields for watched in inner]
        self._modules = [watched.module() for watched in inner]
        self._kinds = [watched.kind for watched in inner]
        self._children = [watched.children for watched in inner]
        self._wrappers = [watched.fields for watched in inner if watched.part == WRAPPER]
        self._originals = [watched.fields for watched in inner if watched.part != WRAPPER]
        copied = [watched for watched in inner if watched.part == COPIED]
        self._copied, self._n_fields = [watched.fields for watched in copied], [watched.n_fields for watched in copied]
        with_settings = [watched for watched in inner if watched.attributes]
        self._with_settings = [watched.fields for watched in with_settings]
        names = [[name for name, _ in watched.attributes] for watched in with_settings]
        self._settings_of = [itemgetter(*own, own[0]) for own in names]  # of one name alone it would give no tuple
        self._settings = [
            value for watched in with_settings for _, value in (*watched.attributes, watched.attributes[0])
        ]

    def is_as_before(self) -> bool:
        """False if anything differs, even in a way that does not matter."""
        try:
            return not (
                any(chain.from_iterable(map(_HOOKS_OF, self._all)))
                or any(map(dict.__contains__, self._all, repeat("forward")))
                or any(map(dict.__contains__, self._inner, repeat("generate")))
                or any(map(dict.__contains__, self._inner, repeat("_compiled_call_impl")))
                or any(map(itemgetter("_parameters"), self._wrappers))
                or any(map(itemgetter("training"), self._originals))
                or list(map(type, self._modules)) != self._kinds
                or list(map(itemgetter("_modules"), self._inner)) != self._children
                or list(map(len, self._copied)) != self._n_fields
                or not all(map(is_, self._settings_now(), self._settings))
            )
        except KeyError:  # a field is gone
            return False

    def _settings_now(self) -> Iterator[Any]:
        return chain.from_iterable(map(itemgetter.__call__, self._settings_of, self._with_settings))


class _Watched:
    __slots__ = ("attributes", "children", "fields", "kind", "module", "n_fields", "part", "path", "taken_along")

    def __init__(self, path: str, module: nn.Module, part: str) -> None:
        self.path, self.module, self.part = path or "the model", weakref.ref(module), part
        # The model's own fields hold methods bound to it, which would keep it alive.
        self.fields = {} if part == MODEL else vars(module)
        self.kind, self.children = type(module), dict(module._modules)
        self.n_fields = len(self.fields)
        self.taken_along = hooks_taken_along(vars(module)) if part == COPIED else {}
        self.attributes = [*filter(self._is_setting, self.fields.items())] if part in (WRAPPER, COPIED) else []

    def _is_setting(self, field: tuple[str, Any]) -> bool:
        """A wrapper stores what it records during a pass under names that begin with an underscore."""
        name, _ = field
        return name not in ("_modules", "training", *HOOK_FIELDS) and not (self.part == WRAPPER and name[0] == "_")

    def changed(self, fields: dict[str, Any]) -> bool:
        if fields["_modules"] != self.children or type(self.module()) is not self.kind:
            return True
        if self.part == COPIED and (len(fields) != self.n_fields or hooks_taken_along(fields) != self.taken_along):
            return True
        return any(fields.get(name) is not value for name, value in self.attributes)

    def obstacle(self, fields: dict[str, Any]) -> str | None:
        own = [fields[name] for name in ("forward", "generate") if name in fields]
        if not all(map(_is_harmless, own)):
            return f"{self.path} has a method of its own in place of its class's"
        if fields.get("_compiled_call_impl") is not None:
            return f"{self.path} is compiled"
        if self.part == WRAPPER and fields["_parameters"]:
            return f"{self.path} has weights of its own"
        if any(hooks := _HOOKS_OF(fields)):
            allowed = _ALLOWED.get(self.part, _is_harmless)
            if not all(allowed(hook) for of_kind in hooks for hook in of_kind.values()):
                return f"a hook is on {self.path}"
        if fields["training"] and self.part in (COPIED, SHARED):
            return "the model is in training mode"
        return None


_GLOBAL_HOOKS = (
    "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks",
)  # fmt: skip


def _is_harmless(hook: Any) -> bool:
    """Whether a hook or method is one of this library that is marked so, or one of TransformerLens' own."""
    return getattr(hook, "harmless", None) is True or _is_of_transformer_lens(hook)


def _is_taken_along(hook: Any) -> bool:
    return getattr(hook, "taken_along", None) is True


def _may_be_on_copied(hook: Any) -> bool:
    return _is_harmless(hook) or _is_taken_along(hook)


def _is_inner(hook: Any) -> bool:
    """Whether a hook point's PyTorch hook stands for a function by which TransformerLens joins two hook points."""
    names = getattr(getattr(hook, "__code__", None), "co_freevars", ())
    return "hook" in names and _is_of_transformer_lens(hook.__closure__[names.index("hook")].cell_contents)


def _is_of_transformer_lens(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("transformer_lens.model_bridge.")


_ALLOWED = {HOOK_POINT: _is_inner, COPIED: _may_be_on_copied}
"""The hooks that may be on modules of some roles; `_is_harmless` for those of others."""
