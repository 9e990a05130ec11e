"""Labels corrected by hand: `label_review.csv` with source, name, concept and reason."""

import csv
from pathlib import Path

COLUMNS = ("source", "name", "concept", "reason")


def read_review(path: Path, nouns: tuple[str, ...]) -> dict[str, str]:
    """Corrected noun by picture key `source/name`; an empty noun removes the label.

    Raises: ValueError for wrong columns, a noun that does not exist, or a picture listed twice.
    """
    if not path.exists():
        return {}
    corrected: dict[str, str] = {}
    with open(path, newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if tuple(table.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} has the columns {table.fieldnames}, expected {list(COLUMNS)}.")
        for row in table:
            key = f"{row['source']}/{row['name']}"
            if row["concept"] and row["concept"] not in nouns:
                raise ValueError(f"{path} calls {key} {row['concept']!r}, which is not a noun of concepts.csv.")
            if key in corrected:
                raise ValueError(f"{path} lists {key} twice; keep one line.")
            corrected[key] = row["concept"]
    return corrected
