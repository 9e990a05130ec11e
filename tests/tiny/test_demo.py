"""A short `make demo`: the page holds the pictures, the captions and the neurons, and fetches nothing."""

import html
import re
from pathlib import Path

import pytest

from lens_multimodal import demo


@pytest.mark.slow
def test_the_page_is_complete_and_self_contained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.html"
    demo.main(["--out", str(out), "--pictures", "6"])
    said = capsys.readouterr().out
    page = out.read_text()
    report = (tmp_path / "demo_report.html").read_text()
    verdicts = [line.removeprefix("* ") for line in said.splitlines() if line.startswith("* ")]
    assert verdicts
    texts = [html.unescape(text).replace("\u00a0", " ") for text in (page, report)]
    assert all(verdict in text for verdict in verdicts for text in texts)
    assert 'href="demo_report.html"' in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.html", "demo_report.html", "demo_report.md"]
    assert said.count("->") == 12
    assert page.count("data:image/jpeg;base64,") >= 12
    assert not re.search(r"<script[^>]+src=", page)
    outside_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="https?://', outside_scripts)
    for line in said.splitlines():
        if "->" in line:
            assert f"A picture of {line.split('-> ')[1]}" in page.replace("&#39;", "'")
