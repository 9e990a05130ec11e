"""Every Python snippet of the README and the documentation runs, page by page; every command line is understood."""

import ast
import shlex
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from lens_multimodal.transformer.hooked_transformer import is_available
from tests.docs.pages import Snippet, name, pages, snippets

WITH_CODE = [page for page in pages() if snippets(page, "python")]
WITH_COMMANDS = [page for page in pages() if snippets(page, "bash")]

NEEDS_WEIGHTS = ("gpt-j-limber", "vit_base_patch16_224.dino", "path/to/")
"""Names of trained weights that are not part of the package, and of files that the reader has."""


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_snippets_run(page, stand, capsys):
    namespace: dict[str, Any] = {"__name__": "snippet", "torch": torch, **_own_parts(page)}
    for snippet in snippets(page, "python"):
        if (
            snippet.note == "keeps running"
            or (_needs_gpu(snippet) and not torch.cuda.is_available())
            or ("sae_lens" in snippet.note and find_spec("sae_lens") is None)
        ):
            compile(snippet.code, name(page), "exec")
            continue
        code = compile(stand.in_words_of(_placed(snippet)), f"{name(page)}:{snippet.line}", "exec")
        if "TransformerLens 3" in snippet.note and not is_available():
            with pytest.raises(RuntimeError, match="has no HookedTransformer"):
                exec(code, namespace)
        elif "weights" in snippet.note or _names_absent_files(snippet):
            _run_with_weights(code, namespace)
        else:
            _detach_lens(snippet, namespace)
            exec(code, namespace)
    capsys.readouterr()


def _needs_gpu(snippet: Snippet) -> bool:
    """Random weights need no file, so only the absence of a GPU would stop these snippets."""
    return 'weights="random"' in snippet.code and '"cuda' in snippet.code


def _names_absent_files(snippet: Snippet) -> bool:
    without_comments = ast.unparse(ast.parse(snippet.code))
    return any(known in without_comments for known in NEEDS_WEIGHTS)


def _run_with_weights(code: Any, namespace: dict[str, Any]) -> None:
    """It runs if the weights are on this machine; otherwise the error must name what is missing."""
    try:
        exec(code, dict(namespace))
    except (OSError, ValueError, RuntimeError) as error:
        absent = ("on this machine", "no projection at", "path/to", "has no HookedTransformer")
        if not any(text in str(error) for text in absent):
            raise


def _detach_lens(snippet: Snippet, namespace: dict[str, Any]) -> None:
    """A page that attaches again leaves the earlier model to the garbage collector, as a reader would."""
    if "lens = attach_vision" in snippet.code and "lens" in namespace:
        namespace["previous"] = namespace["lens"]


def _placed(snippet: Snippet) -> str:
    """The code with its lines numbered as in the page, for tracebacks that can be read."""
    return "\n" * (snippet.line - 1) + snippet.code


def _own_parts(page: Path) -> dict[str, Any]:
    """The parts that a page calls the reader's own."""
    if page.name == "vision-language.md":
        from tests.vision_language.models import build

        model, processor = build("llava-next", Path(tempfile.mkdtemp()))
        return {"my_vlm": model, "my_processor": processor}
    if page.name != "README.md":
        return {}
    from torch import nn

    from lens_multimodal import tiny

    model, _ = tiny.load_language_model()
    return {"my_model": model, "my_linear": nn.Linear(768, 192)}


def test_a_broken_snippet_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nimport nothing_of_this_name\n```\n")
    (snippet,) = snippets(page, "python")
    assert snippet.line == 4
    with pytest.raises(ModuleNotFoundError):
        exec(compile(_placed(snippet), "page", "exec"), {})


@pytest.mark.parametrize("page", WITH_CODE, ids=name)
def test_snippets_use_public_names(page):
    """A reader's imports are names that the modules list."""
    for snippet in snippets(page, "python"):
        for node in ast.walk(ast.parse(snippet.code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lens_multimodal"):
                module = __import__(node.module, fromlist=["__all__"])
                listed = getattr(module, "__all__", dir(module))
                unlisted = [alias.name for alias in node.names if alias.name not in listed]
                assert not [n for n in unlisted if not hasattr(module, n) or n.startswith("_")]


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name)
def test_command_lines_are_understood(page, stand):
    """Options and arguments parse as the program parses them; nothing is run."""
    typer_main = pytest.importorskip("typer.main")
    from lens_multimodal.cli import app

    group = typer_main.get_command(app.application())
    for snippet in snippets(page, "bash"):
        for line in snippet.code.replace("\\\n", " ").splitlines():
            words = shlex.split(stand.in_words_of(line), comments=True)
            given = _arguments(words)
            if given:
                command = group.commands.get(given[0])
                assert command is not None, f"{name(page)}: no command {given[0]!r}"
                command.make_context(given[0], given[1:], resilient_parsing=False)


def _arguments(words: list[str]) -> list[str]:
    """What follows the program's name; nothing for other programs."""
    if "lens-multimodal" in words:
        return words[words.index("lens-multimodal") + 1 :]
    if "lens_multimodal" in words and "-m" in words:
        return words[words.index("lens_multimodal") + 1 :]
    return []


def test_only_commands_of_the_program_are_checked():
    assert _arguments(shlex.split("accelerate launch -m lens_multimodal train x --out y")) == [
        "train",
        "x",
        "--out",
        "y",
    ]
    assert _arguments(["pip", "install", "lens-multimodal-other"]) == []
    assert sys.version_info >= (3, 10)
