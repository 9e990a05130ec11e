"""The table of decoder families in `docs/models.md`: what each check measured.

`python -m tests.decoders.table` measures again with the installed TransformerLens and writes the columns of its
generation: seven for the newest releases, one for TransformerLens 3.
"""

import re
import warnings
from importlib.metadata import version

import torch

from tests.decoders import (
    test_decoded_tokens,
    test_direct_scores,
    test_edits,
    test_gradients,
    test_logit_lens,
    test_save_and_load,
    test_virtual_tokens,
)
from tests.decoders.cases import WORKING, case
from tests.decoders.families import FAMILIES, WORKING_FAMILIES
from tests.decoders.refused_families import REFUSED_FAMILIES
from tests.docs.pages import DOCS

PAGE = DOCS / "models.md"
CHECKS = {
    "virtual tokens": test_virtual_tokens,
    "logit lens": test_logit_lens,
    "direct scores": test_direct_scores,
    "decoded tokens": test_decoded_tokens,
    "gradients": test_gradients,
    "edits": test_edits,
    "save and load": test_save_and_load,
}
OLDER = "TransformerLens 3"
IS_OLDER = version("transformer-lens").startswith("3.")
_WORKING, _REFUSED = "works", "refused"


def measured(name: str) -> dict[str, float]:
    """The largest difference of each check of a family."""
    return {check: max(module.measured(case(name)).values()) for check, module in CHECKS.items()}


def rows(text: str, part: str) -> dict[str, list[str]]:
    """The cells of one of the page's tables after the family's name, by name."""
    lines = re.findall(r"^\| (.*) \|$", _part(text, part), re.M)[2:]
    cells = [line.split(" | ") for line in lines]
    return {name: others for name, *others in cells}


def with_measurements(text: str, found: dict[str, dict[str, float]]) -> str:
    """The page with the columns of the installed TransformerLens as measured."""
    before = rows(text, _WORKING)
    lines = [_line("family", "class", *CHECKS, OLDER), _line(*["---"] * (len(CHECKS) + 3))]
    for name, family in WORKING_FAMILIES.items():
        _, *cells = before.get(name, [""] * (len(CHECKS) + 2))
        if not IS_OLDER:
            cells = [*(_number(found[name][check]) for check in CHECKS), cells[-1]]
        elif name in found:
            cells = [*cells[:-1], _number(max(found[name].values()))]
        else:
            cells = [*cells[:-1], f"refused: {FAMILIES[name].refused_by_3.why}"]
        lines.append(_line(name, f"`{family.model}`", *cells))
    refused = [_line("family", "class", "reason"), _line("---", "---", "---")]
    refused += [_line(name, f"`{family.model}`", family.refused.why) for name, family in REFUSED_FAMILIES.items()]
    releases = f"transformer-lens {version('transformer-lens')}, transformers {version('transformers')}"
    text = _replaced(text, "releases of TransformerLens 3" if IS_OLDER else "releases", releases)
    for part, table in ((_WORKING, lines), (_REFUSED, refused)):
        text = _replaced(text, part, "\n\n{}\n\n".format("\n".join(table)))
    return text


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {name: measured(name) for name in WORKING}
    PAGE.write_text(with_measurements(PAGE.read_text(), found))


def _number(value: float) -> str:
    return "0" if value == 0 else re.sub(r"e([+-])0*", r"e\1", f"{value:.0e}").replace("e+", "e")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _part(text: str, part: str) -> str:
    found = re.search(rf"<!-- {part} -->(.*?)<!-- end of {part} -->", text, re.S)
    assert found is not None, f"{PAGE.name} has no part {part!r}"
    return found[1]


def _replaced(text: str, part: str, by: str) -> str:
    before, rest = text.split(f"<!-- {part} -->")
    _, after = rest.split(f"<!-- end of {part} -->")
    return f"{before}<!-- {part} -->{by}<!-- end of {part} -->{after}"


if __name__ == "__main__":
    main()
