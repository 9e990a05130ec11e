"""What every fuzz test requires: the library works, or it refuses with an error of its own and changes nothing.

`FUZZ_EXAMPLES=1000 FUZZ_COUNTS=counts.json python -m pytest tests/fuzz` looks further than the default and writes down
how many cases worked and how many were refused; `docs/reliability.md` has the counts of the last long run.
"""

import hashlib
import json
import os
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

import lens_multimodal
from lens_multimodal import VisionLens, transformer
from lens_multimodal.hooks import CutHadNoEffect
from lens_multimodal.tiny import MissingWeights
from lens_multimodal.transformer.accepted_models import WrongInTransformerLens
from lens_multimodal.transformer.residual_check import UnknownResidualStream
from lens_multimodal.transformer.self_check import HookHasNoEffect
from tests.lenses import random_lens

OWN_ERRORS = (
    ValueError, TypeError, FileNotFoundError, FileExistsError, FloatingPointError, ImportError,
    transformer.HookDidNotFire, HookHasNoEffect, CutHadNoEffect, MissingWeights, WrongInTransformerLens,
    UnknownResidualStream,
)  # fmt: skip
"""The documented kinds of error; each must be raised by a line of this library, not by something beneath it."""

PYTHONS_WORDS = (
    "object is not|not supported between|has no attribute|unexpected keyword|has no len|argument must be|"
    "unsupported operand"
)
"""Python's own words for a mistake: true, but of no use to a caller of this library."""

OWN_FOLDER = Path(lens_multimodal.__file__).parent

settings.register_profile(
    "fuzz",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("fuzz")

COUNTS: dict[str, Counter[str]] = {}


def pytest_sessionfinish() -> None:
    if path := os.environ.get("FUZZ_COUNTS"):
        Path(path).write_text(json.dumps(COUNTS, indent=1) + "\n")


@pytest.fixture(autouse=True)
def as_users_have_it() -> Iterator[None]:
    """Without the run-time type checks that tests switch on, which would catch a wrong argument for us."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def lens(tmp_path_factory) -> VisionLens:
    return random_lens(tmp_path_factory.mktemp("lens"))


@pytest.fixture
def attempt(request) -> Callable[..., Any]:
    """Call something with arguments of any kind: `attempt(function, lens)` gives its value, or None if it refused."""
    counts = COUNTS.setdefault(request.node.name.split("[")[0], Counter())

    def call(function: Callable[[], Any], lens: VisionLens | None = None) -> Any:
        before = None if lens is None else state_of(lens)
        value = None
        try:
            value = function()
            counts["worked"] += 1
        except Exception as error:
            check_is_own(error)
            counts["refused"] += 1
        if lens is not None:
            assert state_of(lens) == before, "weights or hooks changed"
        return value

    return call


def check_is_own(error: Exception) -> None:
    """Raise AssertionError for an error that a user could not understand."""
    if not isinstance(error, OWN_ERRORS):
        raise AssertionError(f"{type(error).__name__} is none of the documented errors: {error}") from error
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if not raised_in.is_relative_to(OWN_FOLDER):
        raise AssertionError(f"raised by {raised_in}, not by this library: {type(error).__name__}: {error}") from error
    if re.search(PYTHONS_WORDS, str(error)[:60]):
        raise AssertionError(f"Python's words, not this library's: {type(error).__name__}: {error}") from error
    if len(str(error).split()) < 3:
        raise AssertionError(f"says too little: {error!r}") from error


def state_of(lens: VisionLens) -> tuple[str, str, int]:
    """Fingerprints of all weights, of every hook of every module, and whether gradients are recorded."""
    weights, hooks = hashlib.sha256(), []
    for part in (lens.model, lens.vision, lens.projection):
        for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
            weights.update(name.encode())
            weights.update(tensor.detach().cpu().contiguous().numpy().tobytes())
            weights.update(bytes([tensor.requires_grad]))
        hooks += [(name, *_hooks_of(module)) for name, module in part.named_modules()]
    return weights.hexdigest(), hashlib.sha256(repr(hooks).encode()).hexdigest(), int(torch.is_grad_enabled())


def _hooks_of(module: nn.Module) -> tuple[Any, ...]:
    counted = (len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
    own = tuple(len(getattr(module, kind, ())) for kind in ("fwd_hooks", "bwd_hooks"))
    return (*counted, own, module.training)
