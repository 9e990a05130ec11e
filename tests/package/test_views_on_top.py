"""No lower room imports what draws, not even inside functions."""

import ast
from pathlib import Path

import lens_multimodal

PACKAGE = Path(lens_multimodal.__file__).parent
MAY_DRAW = {"views", "cli", "demo", "explorer", "reproduction", "short_report"}


def views_imports(source: str) -> list[int]:
    """Lines that import `lens_multimodal.views`, wherever they stand."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        if any(name.startswith("lens_multimodal.views") for name in names):
            found.append(node.lineno)
    return found


def test_no_lower_room_imports_the_views():
    lower = [
        path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in MAY_DRAW
    ]
    assert len(lower) > 80
    found = {str(path.relative_to(PACKAGE)): lines for path in lower if (lines := views_imports(path.read_text()))}
    assert found == {}


def test_an_import_inside_a_function_is_found():
    assert views_imports("def f():\n    from lens_multimodal.views import plots\n") == [2]
    assert views_imports("import lens_multimodal.views.html as html\n") == [1]
    assert views_imports("from lens_multimodal import views\n") == [1]
    assert views_imports("from lens_multimodal import analysis\n") == []
