"""A small world for the engine: random pictures, a random lens, and an experiment that uses all kinds of cells."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from lens_multimodal.data import Scene, SceneObject
from lens_multimodal.experiments import Context, Experiment, SummaryTable, generator_for
from lens_multimodal.experiments.shared.picture_state import PictureSettings
from lens_multimodal.experiments.stream import Batching, stream
from tests.lenses import picture, random_lens


def make_scenes(folder: Path, count: int, *, write: bool = True) -> list[Scene]:
    """Random pictures on disk with a caption and a rectangle each; ids are not in the order of the list.

    Args: write: False if another process has written the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes = []
    for number in range(count):
        shown = picture(number)
        path = folder / f"{number:03d}.png"
        if write:
            shown.save(path)
        box = SceneObject(
            id=number,
            category="dog",
            supercategory="animal",
            area=50.0,
            box=(0.0, 0.0, 10.0, 5.0),
            is_crowd=False,
            height=shown.height,
            width=shown.width,
            segmentation=[[0, 0, 10, 0, 10, 5, 0, 5]],
            extra={},
        )
        scenes.append(
            Scene(
                id=1000 - 7 * number,
                path=path,
                height=shown.height,
                width=shown.width,
                captions=("A big dog.",),
                objects=(box,),
                extra={},
            )
        )
    return scenes


@dataclass(frozen=True)
class ProbeSettings:
    """How many neurons are drawn, and how long a picture takes at least."""

    draws: int = 3
    seconds: float = 0.0


class Probe(Experiment):
    """Next-token figures of each picture; some pictures give no rows, some no value, so that types have to widen."""

    name, version, tables, settings = "probe", 1, ("pictures", "neurons"), ProbeSettings
    question = "What follows?"
    summaries = (
        SummaryTable(
            name="confidence",
            table="pictures",
            value="log_probability",
            title="Confidence",
            caption="Of the best token.",
        ),
    )

    def rows(self, context: Context) -> dict[str, pd.DataFrame]:
        scene = context.picture.scene
        prompt = context.picture.lens.prompt(context.picture.image)
        with torch.no_grad():
            logits = context.picture.lens.logits(prompt)[0, -1].float()
        generator = generator_for(context.picture.seed, "probe", scene.id)
        drawn = torch.randint(
            0, context.picture.lens.shape.d_mlp, (context.settings.draws,), generator=generator
        ).tolist()
        time.sleep(context.settings.seconds)
        pictures = pd.DataFrame(
            {
                "image_id": [scene.id],
                "best": [int(logits.argmax())],
                "log_probability": [float(logits.log_softmax(-1).max())],
                "words": [scene.captions[0].split() if scene.id % 2 else []],
                "sure": [bool(logits.softmax(-1).max() > 0.1)],
                "rank": [None if scene.id % 3 == 0 else scene.id % 5],
            }
        )
        neurons = pd.DataFrame(
            [(scene.id, draw, neuron, float(logits[neuron])) for draw, neuron in enumerate(drawn)],
            columns=["image_id", "draw", "neuron", "logit"],
        )
        return {"pictures": pictures, "neurons": neurons if scene.id % 4 else neurons.head(0)}


def run_probe(home: Path, out: Path, *, seconds: float = 0.0, count: int = 14) -> None:
    """The probe over the pictures of `home`, in this process and those launched with it."""
    lens = random_lens(home / f"tokenizer.{os.getpid()}")
    stream(
        lens,
        [Probe()],
        make_scenes(home, count, write=False),
        out,
        settings={"picture": PictureSettings(), "probe": ProbeSettings(seconds=seconds)},
        batching=Batching(pictures=2),
        progress=False,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_probe(Path(sys.argv[1]), Path(sys.argv[2]), seconds=float(sys.argv[3]))
