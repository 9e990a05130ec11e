"""Which neurons turn pictures into words: found by attribution, read, filtered, counted (paper sections 2 and 3).

For each noun of a generated caption the neurons of largest attribution are decoded; those of whose ten words at least
seven are in the dictionary count as interpretable. The control is as many random neurons of the same layers. How well
the decoded words fit the picture is compared, at equal numbers of words, between the found neurons, random neurons,
the decoded image prompts, random tokens and the caption itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from lens_multimodal.analysis.effects.by_row import read_without
from lens_multimodal.data import Scene
from lens_multimodal.experiments.discovery import summary
from lens_multimodal.experiments.experiment import Context, Summary
from lens_multimodal.experiments.picture import PictureState, SaidNoun
from lens_multimodal.experiments.projection.tokens import nearest_to_image_prompts, random_tokens
from lens_multimodal.experiments.words import says
from lens_multimodal.experiments.words.agreement import Agreement, AgreementSettings, first_distinct


@dataclass(frozen=True, kw_only=True)
class DiscoverySettings(AgreementSettings):
    """How many neurons give words to the comparison with the picture; the rest is in `PictureSettings`."""

    n_speaking: int = 5
    """The paper shows the best five interpretable neurons of a picture."""


class Discovery:
    """The found neurons, their words, and how they fit the picture."""

    name = "discovery"
    version = 2
    tables = ("captions", "nouns", "neurons", "groups", "agreement")
    settings = DiscoverySettings

    def rows(self, context: Context, scene: Scene) -> dict[str, pd.DataFrame]:  # noqa: ARG002
        picture: PictureState = context.picture
        return {
            "captions": _captions(picture),
            "nouns": _nouns(context, picture),
            "neurons": _frame(row for i in range(len(picture.nouns)) for row in _neurons(picture, i)),
            "groups": _frame(row for i in range(len(picture.nouns)) for row in _groups(picture, i)),
            "agreement": _frame(_agreement(context, picture)),
        }

    def summarise(self, rows: dict[str, pd.DataFrame], *, seed: int) -> dict[str, Summary]:
        return summary.summarise(rows, seed=seed)


def speaking(picture: PictureState, neurons: pd.DataFrame, count: int) -> list[list[int]]:
    """Tokens of the first interpretable neurons of a table, best neuron first; of any, where none is interpretable."""
    table = picture.with_words(neurons)
    chosen = table[table["interpretable"]].head(count)
    return [list(ids) for ids in (chosen if len(chosen) else table.head(count))["token_ids"]]


def _captions(picture: PictureState) -> pd.DataFrame:
    scene = picture.scene
    return pd.DataFrame(
        [
            {
                "image_id": scene.id,
                "file_name": scene.path.name,
                "caption": picture.caption,
                "human_caption": scene.captions[0] if scene.captions else None,
                "nouns": [noun.name for noun in picture.nouns],
                "categories": list(scene.categories),
                "right": any(noun.in_picture for noun in picture.nouns),
                "n_layers": picture.lens.shape.n_layers,
            }
        ]
    )


def _nouns(context: Context, picture: PictureState) -> pd.DataFrame:
    if not picture.nouns:
        return pd.DataFrame({"image_id": []})
    reading = read_without(
        context.lens.model,
        picture.tokens,
        [(noun.read_pos, noun.token) for noun in picture.nouns],
        [None],
        positions=picture.image_pos,
        batch_size=context.batch_size,
    )
    return pd.DataFrame(
        [
            {
                "image_id": picture.scene.id,
                "noun": noun.name,
                "category": noun.noun.category,
                "token": noun.token,
                "token_text": noun.token_text,
                "n_tokens": noun.n_tokens,
                "read_pos": noun.read_pos,
                "logit": float(reading.logit[0, index]),
                "probability": float(reading.probability[0, index]),
                "in_picture": noun.in_picture,
                "in_human_captions": noun.in_human_captions,
            }
            for index, noun in enumerate(picture.nouns)
        ]
    )


def _neurons(picture: PictureState, index: int) -> Iterator[dict[str, object]]:
    noun = picture.nouns[index]
    for rank, neuron in enumerate(picture.with_words(picture.top[index]).itertuples()):
        row, col = picture.cell(neuron.pos)
        yield {
            **_about(picture, noun),
            "rank": rank,
            "layer": int(neuron.layer),
            "neuron": int(neuron.neuron),
            "attribution": float(neuron.attribution),
            "row": row,
            "col": col,
            "tokens": list(neuron.tokens),
            "interpretable": bool(neuron.interpretable),
            "says_noun": any(says(token, {noun.name}) for token in neuron.tokens),
        }


def _groups(picture: PictureState, index: int) -> Iterator[dict[str, object]]:
    noun = picture.nouns[index]
    for kind, neurons in (("top", picture.top[index]), ("random", picture.random[index])):
        table = picture.with_words(neurons)
        yield {
            **_about(picture, noun),
            "neurons": kind,
            "n": len(table),
            "interpretable": float(table["interpretable"].mean()),
            "says_noun": float(_share_saying(table, {noun.name})),
            "says_human_noun": float(_share_saying(table, set(picture.human_nouns))),
        }


def _agreement(context: Context, picture: PictureState) -> Iterator[dict[str, object]]:
    settings: DiscoverySettings = context.settings
    agreement = Agreement.of(context, settings)
    top = [tokens for table in picture.top for tokens in speaking(picture, table, settings.n_speaking)]
    random = [tokens for table in picture.random for tokens in speaking(picture, table, settings.n_speaking)]
    spoken = {
        "neurons": first_distinct(top, settings.n_tokens),
        "random neurons": first_distinct(random, settings.n_tokens),
        "image prompts": first_distinct(nearest_to_image_prompts(context).tokens.tolist(), settings.n_tokens),
        "random tokens": random_tokens(context, settings.n_tokens),
        "caption": picture.caption_ids,
    }
    for source, tokens in spoken.items():
        if tokens and picture.nouns:
            yield {"image_id": picture.scene.id, "source": source, **agreement.measures(tokens)}


def _about(picture: PictureState, noun: SaidNoun) -> dict[str, object]:
    return {
        "image_id": picture.scene.id,
        "noun": noun.name,
        "category": noun.noun.category,
        "in_picture": noun.in_picture,
    }


def _share_saying(table: pd.DataFrame, names: set[str]) -> float:
    return sum(any(says(token, names) for token in tokens) for tokens in table["tokens"]) / len(table)


def _frame(rows: Iterator[dict[str, object]]) -> pd.DataFrame:
    found = list(rows)
    return pd.DataFrame(found) if found else pd.DataFrame({"image_id": []})
