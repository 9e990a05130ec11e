"""Everything about a module that can be compared, to prove that it is unchanged."""

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedModel


def state_of(root: nn.Module) -> dict[str, Any]:
    """Everything about a module that can be compared: the test's own account, not the library's."""
    found: dict[str, Any] = {}
    for name, module in root.named_modules(remove_duplicate=False):
        found[f"{name}: identity"] = id(module), type(module), module.training
        found[f"{name}: names"] = list(vars(module)), list(module._modules)
        for attribute, value in vars(module).items():
            if attribute.endswith("_hooks") or attribute.endswith("_hooks_with_kwargs"):
                found[f"{name}: {attribute}"] = copy.copy(value)
            elif not isinstance(value, dict | list | set | nn.Module):
                found[f"{name}: {attribute}"] = id(value), value if isinstance(value, str | int | float) else None
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                about = (id(tensor), tensor.data_ptr(), tensor.dtype, tensor.device, tensor.requires_grad, tensor.grad)
                found[f"{name}: {key}"] = *about, tensor.detach().double().sum().item()
    if isinstance(root, PreTrainedModel):
        found["configuration"] = repr(root.config), root.config._attn_implementation, repr(root.generation_config)
    found["saved names"] = list(root.state_dict())
    return found


def assert_as_before(root: nn.Module, before: dict[str, Any]) -> None:
    after = state_of(root)
    differing = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    assert not differing, {key: (before.get(key), after.get(key)) for key in differing[:5]}
