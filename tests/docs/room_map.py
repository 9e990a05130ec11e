"""The map of the code in `docs/tree.md`: its last column says which room imports which.

`python -m tests.docs.room_map` writes the column again after an intended change.
"""

import re

from tests.docs.pages import DOCS
from tests.package.test_rooms import ORDER, PACKAGE, imports

PAGE = DOCS / "tree.md"
_ROW = re.compile(r"^(\| `lens_multimodal/(\w+)(?:\.py|/)` \|[^|]+\|)[^|]*\|$", re.M)


def rooms_below() -> dict[str, list[str]]:
    """What each room imports, lowest first."""
    below: dict[str, set[str]] = {}
    for module, imported in imports(PACKAGE).items():
        room = module.split(".")[0]
        below.setdefault(room, set()).update({other.split(".")[0] for other in imported} - {room})
    order = [room for row in ORDER for room in row]
    return {room: sorted(others, key=order.index) for room, others in below.items()}


def mapped_rooms(text: str) -> list[str]:
    """The rooms that the map has, from top to bottom."""
    return [row[2] for row in _ROW.finditer(text)]


def with_imports(text: str) -> str:
    """The page with the last column as the source has it."""
    below = rooms_below()
    return _ROW.sub(lambda row: f"{row[1]} {', '.join(f'`{room}`' for room in below[row[2]]) or 'nothing'} |", text)


if __name__ == "__main__":
    PAGE.write_text(with_imports(PAGE.read_text()))
