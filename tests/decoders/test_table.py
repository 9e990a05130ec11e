"""The page of decoder families lists the families of the tests, and only numbers that pass them."""

import re

from tests.decoders.cases import TOLERANCE
from tests.decoders.families import WORKING_FAMILIES
from tests.decoders.refused_families import REFUSED_FAMILIES
from tests.decoders.table import CHECKS, PAGE, rows


def test_every_family_that_works_is_on_the_page():
    listed = rows(PAGE.read_text(), "works")
    assert list(listed) == list(WORKING_FAMILIES)
    for name, (model, *cells) in listed.items():
        assert model == f"`{WORKING_FAMILIES[name].model}`"
        assert len(cells) == len(CHECKS) + 1
        refused = WORKING_FAMILIES[name].refused_by_3
        assert all(float(cell) <= TOLERANCE for cell in cells[: None if refused is None else -1]), name
        assert refused is None or cells[-1] == f"refused: {refused.why}"


def test_every_family_that_is_refused_is_on_the_page():
    expected = {name: [f"`{family.model}`", family.refused.why] for name, family in REFUSED_FAMILIES.items()}
    assert rows(PAGE.read_text(), "refused") == expected


def test_the_page_names_the_releases():
    assert re.findall(r"transformer-lens (\d)\.\d+\.\d+, transformers 5", PAGE.read_text()) == ["4", "3"]
