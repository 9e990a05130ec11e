"""The site builds strictly, fetches nothing, and says only what the source says."""

import ast
import json
import re
import runpy
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lens_multimodal
from lens_multimodal.demo import caption_scenes, explain, sample_scenes
from tests.docs import room_map
from tests.docs.pages import DOCS, README, ROOT, name, pages

_EXTERNAL = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["']((?:https?:)?//[^"']+)""")


BESIDE = (ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
"""Pages that are not part of the site."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    # `--quiet` would hide warnings from the strict build too.
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built(site):
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS).with_suffix(".html")).is_file()


def test_nothing_is_fetched(site):
    for page in site.rglob("*.html"):
        assert not _EXTERNAL.findall(page.read_text()), page.name
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet.name


def test_a_fetched_script_is_noticed():
    assert _EXTERNAL.findall('<script defer src="https://example.org/x.js">')
    assert not _EXTERNAL.findall('<a href="https://example.org">')


def test_the_reference_shows_every_public_name(site):
    from lens_multimodal import analysis, data, experiments, hooks, train
    from lens_multimodal.views import plots

    shown = {page.stem: _documented(page.read_text()) for page in (site / "reference").glob("*.html")}
    assert not set(lens_multimodal.__all__) - set().union(*shown.values())
    of_page = {
        "analysis": analysis,
        "hooks": hooks,
        "data-and-training": data,
        "experiments": experiments,
        "plots": plots,
    }
    for page, module in of_page.items():
        assert not set(module.__all__) - shown[page], page
    assert not set(train.__all__) - shown["data-and-training"]
    # nnsight, a rival in the benchmarks, gives every object of its process a method `save`.
    of_lens = {name for name in set(dir(lens_multimodal.VisionLens)) - set(dir(object)) if not name.startswith("_")}
    shown_of_lens = re.findall(
        r'id="lens_multimodal\.VisionLens\.(\w+)"', (site / "reference" / "lens.html").read_text()
    )
    missing = of_lens - set(shown_of_lens)
    assert not missing


def _documented(html: str) -> set[str]:
    """Names of functions, classes and constants that have their own heading; modules of the same name do not count."""
    headings = re.findall(r'<h\d id="lens_multimodal[\w.]*?\.(\w+)" class="doc doc-heading">\s*(.{0,400})', html, re.S)
    return {name for name, after in headings if re.search(r"doc-symbol-(?:function|class|attribute)", after)}


@pytest.mark.parametrize("page", [*pages(), *BESIDE], ids=name)
def test_links_of_the_repository_lead_somewhere(page):
    """Links outside the site and, beyond what mkdocs checks, files that pages name in code."""
    text = page.read_text()
    if page in (README, *BESIDE):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (ROOT / target).exists(), target
    for target in re.findall(r"`((?:lens_multimodal|recipes|benchmarks|demos|tests)/[\w./-]+)`", text):
        assert (ROOT / target).exists(), target


def test_the_map_has_every_room_and_says_which_imports_which():
    text = room_map.PAGE.read_text()
    rooms = room_map.mapped_rooms(text)
    below = room_map.rooms_below()
    assert sorted([*rooms, "__main__"]) == sorted(below)
    assert not [(room, other) for at, room in enumerate(rooms) for other in below[room] if other not in rooms[:at]]
    assert text == room_map.with_imports(text), "run python -m tests.docs.room_map"


def test_pages_name_no_path_of_this_machine():
    for page in pages():
        assert not re.search(r"(?<![\w.~])/(?:home|work|tmp|root|usr)/", page.read_text()), name(page)


def test_the_demos_are_the_ones_listed():
    listed = set(re.findall(r"\| `(\d\d_\w+)` \|", (DOCS / "index.md").read_text()))
    assert listed == {path.stem for path in (ROOT / "demos").glob("*.ipynb")}


def test_the_paper_page_names_things_that_exist():
    from lens_multimodal import VisionLens, analysis, data, experiments, hooks, presets, train
    from lens_multimodal.experiments.shared.word_agreement import AgreementSettings
    from lens_multimodal.views import plots

    page = (DOCS / "paper.md").read_text()
    modules = (lens_multimodal, analysis, data, hooks, train, experiments, plots)
    known = {name for module in modules for name in module.__all__} | set(_reference_keys())
    known |= set(analysis.SCORES) | set(experiments.EXPERIMENTS) | set(presets.names()) | {"presets", "beit-large"}
    known |= {f"lens.{name}" for name in dir(VisionLens)} | {f"PatchSweep.{name}" for name in dir(analysis.PatchSweep)}
    known |= set(analysis.PatchSweep.__dataclass_fields__) | {"PatchSweep.estimate", "W_out"}
    known |= set(AgreementSettings.__dataclass_fields__)
    named = re.findall(r"`([A-Za-z][\w.-]*)(?:\([^`]*\))?`", page)
    paths = [name for name in named if "/" in name]
    assert not [name for name in named if name not in known and name not in paths]


def test_the_paper_page_has_a_row_for_each_thing_that_the_paper_shows():
    page = (DOCS / "paper.md").read_text()
    listed = re.findall(r"`((?:\w+\.)+[\w*]+)`", page)
    assert not [key for key in _reference_keys() if not any(fnmatch(key, pattern) for pattern in listed)]


def test_commands_of_the_paper_page_are_understood():
    typer_main = pytest.importorskip("typer.main")
    from lens_multimodal.cli import app

    group = typer_main.get_command(app.application())
    lines = re.findall(r"`lens-multimodal ([^`]+)`", (DOCS / "paper.md").read_text())
    assert len(lines) > 5
    for command, *arguments in map(shlex.split, lines):
        group.commands[command].make_context(command, arguments, resilient_parsing=False)


def _reference_keys() -> list[str]:
    reference = json.loads((ROOT / "lens_multimodal" / "experiments" / "paper_reference.json").read_text())
    return [entry["key"] for entry in reference["entries"]]


def test_the_paper_page_lists_every_experiment():
    from lens_multimodal.experiments import EXPERIMENTS

    page = (DOCS / "paper.md").read_text()
    for experiment in EXPERIMENTS.values():
        assert f"| `{experiment.name}` | {', '.join(experiment.tables)} |" in page, experiment.name
    listed = re.findall(r"\| `(\w+)` \| [\w, ]+ \|$", page, re.M)
    assert set(listed) == set(EXPERIMENTS)


# --- figures -----------------------------------------------------------------------------------------------


def test_figures_are_what_their_script_draws():
    figures = runpy.run_path(str(DOCS / "figures" / "draw.py"))["figures"]()
    for file, drawing in figures.items():
        assert (DOCS / "figures" / file).read_text() == drawing


@pytest.mark.slow
def test_the_picture_of_the_readme_is_small_and_is_what_the_weights_say():
    script = runpy.run_path(str(DOCS / "figures" / "first_look.py"))
    with lens_multimodal.attach_vision() as lens:
        scene = script["choose"](lens, caption_scenes(lens, sample_scenes(each=60)))
        drawn = script["draw"](lens, explain(lens, scene, shown=script["SHOWN"]))
    assert script["FILE"].stat().st_size < 150_000
    with Image.open(script["FILE"]) as kept:
        apart = np.abs(np.asarray(kept.convert("RGB"), float) - np.asarray(drawn, float))
    assert apart.mean() < 3, "run docs/figures/first_look.py again"


def test_the_table_of_faithfulness_is_of_the_weights_that_ship():
    weights = runpy.run_path(str(DOCS / "figures" / "faithfulness.py"))["weights"]()
    assert f"weights `{weights}`" in (DOCS / "faithfulness.md").read_text(), "run docs/figures/faithfulness.py again"


# --- troubleshooting ---------------------------------------------------------------------------------------


def test_every_quoted_message_is_in_the_source():
    quoted = re.findall(r"^### `(.+)`$", (DOCS / "troubleshooting.md").read_text(), re.M)
    assert len(quoted) > 30
    messages = _texts(ROOT / "lens_multimodal")
    unknown = [quote for quote in quoted if not any(_holds(message, quote) for message in messages)]
    assert not unknown


def test_a_message_that_no_code_raises_is_noticed():
    messages = _texts(ROOT / "lens_multimodal")
    assert not any(_holds(message, "the moon is not made of … cheese") for message in messages)
    assert _holds("a … b c", "a … b")
    assert not _holds("b a", "a … b")


def _holds(message: str, quote: str) -> bool:
    """Whether the parts of a quotation, `…` between them, stand in a message in this order."""
    place = 0
    for part in (part.strip() for part in quote.split("…")):
        found = message.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return True


def _texts(folder: Path) -> list[str]:
    """Every string of the source, with `…` for what is filled in."""
    return [
        _text(node)
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.JoinedStr | ast.Constant | ast.BinOp)
    ]


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left) + _text(node.right)
    return "…"
