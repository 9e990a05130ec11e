"""The documented table has a row for each family."""

from tests.vision_language.models import FAMILIES
from tests.vision_language.table import MARKS, PAGE


def test_every_family_has_its_row():
    rows = [line for line in MARKS.search(PAGE.read_text())[0].splitlines() if "ForConditionalGeneration |" in line]
    assert len(rows) == len(FAMILIES)
    assert "differ |" not in MARKS.search(PAGE.read_text())[0]
