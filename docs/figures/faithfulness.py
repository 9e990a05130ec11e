"""Which score to trust, on the tiny trio: `python docs/figures/faithfulness.py` writes the table of faithfulness.md.

Run it again when the trio's weights change; the page says on which weights its figures were measured.
"""

import argparse
import hashlib
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from lens_multimodal import VisionLens, attach_vision
from lens_multimodal.analysis import Faithfulness, bootstrap_interval, faithfulness
from lens_multimodal.data import Scene
from lens_multimodal.demo import sample_scenes
from lens_multimodal.tiny import FOLDER

PAGE = Path(__file__).parents[1] / "faithfulness.md"
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
TEXT = "A picture of a"
COLUMNS = {
    "spearman": "rank correlation with ablation",
    "top_k_overlap": "overlap of the best tenth",
    "lost": "logits lost while deleting",
    "regained": "logits regained while inserting",
}


def report(lens: VisionLens, scene: Scene, *, n_neurons: int) -> tuple[Faithfulness, str]:
    """Faithfulness for the model's next word after `TEXT`, and that word."""
    prompt = lens.prompt(scene.open(), TEXT)
    with torch.no_grad():
        said = int(lens.logits(prompt)[0, -1].argmax())
    found = faithfulness(lens.model, prompt.tokens, said, prompt.image_pos[0], n_neurons=n_neurons)
    return found, lens.text.decode([said]).strip()


def rows(found: Faithfulness) -> pd.DataFrame:
    """One row per score; curves relative to their starting value, so that they can be averaged over pictures."""
    table = found.summary
    return table.assign(
        lost=found.clean_value - table["deletion_auc"], regained=table["insertion_auc"] - found.all_ablated_value
    )


def markdown(table: pd.DataFrame) -> str:
    """Mean over pictures with its bootstrap interval, one row per score."""
    lines = [f"| score | {' | '.join(COLUMNS.values())} |", "| --- |" + " ---: |" * len(COLUMNS)]
    for score, of_score in table.groupby("score", sort=False):
        cells = []
        for column in COLUMNS:
            interval = bootstrap_interval(of_score[column].dropna())
            cells.append(f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f})")
        lines.append(f"| `{score}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def weights() -> str:
    """A short digest of the trio's weights."""
    digest = hashlib.sha256()
    for file in ("language/model.safetensors", "vision.safetensors", "projection.safetensors"):
        digest.update((FOLDER / file).read_bytes())
    return digest.hexdigest()[:12]


def write(page: Path, measured: str) -> None:
    """Replace the text between the page's markers. Raises: ValueError for a page without them."""
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page.name} has no {BEGIN} ... {END} to write between")
    page.write_text(f"{text.partition(BEGIN)[0]}{BEGIN}\n\n{measured}\n\n{END}{text.partition(END)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=24, help="scenes, half of them of drawings never trained on")
    parser.add_argument("--neurons", type=int, default=256, help="neurons compared for each picture")
    options = parser.parse_args()
    lens = attach_vision()
    parts, right = [], 0
    scenes = sample_scenes(each=options.pictures // 2)
    for number, scene in enumerate(tqdm(scenes)):
        found, word = report(lens, scene, n_neurons=options.neurons)
        right += word == scene.categories[0]
        parts.append(rows(found).assign(picture=number))
    table = markdown(pd.concat(parts, ignore_index=True))
    note = (
        f"{len(scenes)} sample scenes with one object, {options.neurons} neurons each, weights `{weights()}`. The "
        f'target is the model\'s own next word after "{TEXT}"; it is the right noun in {right} of them.'
    )
    write(PAGE, f"{note}\n\n{table}")


if __name__ == "__main__":
    main()
