"""What the model says: captions and their nouns, and how often they are right."""

from collections.abc import Iterator, Mapping

import pandas as pd

from lens_multimodal.experiments.shared import picture_statistics as stats
from lens_multimodal.experiments.shared.context import Row
from lens_multimodal.experiments.shared.picture_state import PictureState
from lens_multimodal.experiments.shared.summaries import Evidence, SummaryTable, Verdict, answer_of, too_few

CAPTION_SHARES = {"right": "captions that say something in the picture"}
NOUN_SHARES = {
    "in_picture": "nouns that are in the picture",
    "in_human_captions": "nouns that are in people's captions",
    "long": "nouns of more than one token",
}


def _caption_shares(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    captions, nouns = tables["captions"], tables["nouns"]
    parts = [stats.by_measure(captions, CAPTION_SHARES, keys=[], name="share")]
    if len(nouns):
        parts.append(stats.by_measure(nouns.assign(long=nouns["n_tokens"] > 1), NOUN_SHARES, keys=[], name="share"))
    return pd.concat(parts)


def _captions_verdict(evidence: Evidence) -> Verdict:
    """How often the captions are right."""
    captions = evidence.rows[evidence.rows["share"] == CAPTION_SHARES["right"]]
    tested = stats.table_against(captions, "value", threshold=0.5, seed=evidence.seed)
    n = int(tested["n"].sum())
    if n < stats.needed():
        return too_few(n)
    row = tested.iloc[0]
    above = stats.is_above(row, 0.5)
    finding = {
        True: "Captions MOSTLY name something that is in the picture",
        False: "Captions MOSTLY DO NOT name something that is in the picture",
        None: "It is NOT established whether most captions name something that is in the picture",
    }[above]
    wrong = ": the experiments then mostly explain something that the picture does not show" if above is False else ""
    share = stats.in_words(row, percent=True)
    return Verdict(
        text=f"{finding}: {share} of them do (n = {n} pictures){wrong}.",
        answer=answer_of(above),
        compared=tested.assign(compared="captions"),
        unit="share of captions that name something in the picture",
    )


CAPTIONS = SummaryTable(
    name="captions",
    table="captions",
    title="What the model says",
    caption=(
        "Greedy captions of {n} pictures and the nouns found in them; in the picture means that the noun's category is "
        "annotated there. The experiments explain what the model says, right or wrong."
    ),
    rows=_caption_shares,
    by=("share",),
    claim="Most captions name something that is in the picture.",
    verdict=_captions_verdict,
)


def caption_row(picture: PictureState) -> Row:
    """What the model and people say about a picture."""
    scene = picture.scene
    return {
        "image_id": scene.id,
        "file_name": scene.path.name,
        "caption": picture.caption,
        "human_caption": scene.captions[0] if scene.captions else None,
        "nouns": [noun.name for noun in picture.nouns],
        "categories": list(scene.categories),
        "right": any(noun.in_picture for noun in picture.nouns),
        "n_layers": picture.lens.shape.n_layers,
    }


def noun_rows(picture: PictureState) -> Iterator[Row]:
    """One row for each noun of the caption: how the model predicts it, and whether it is in the picture."""
    if not picture.nouns:
        return
    reading = picture.read([None])
    for index, noun in enumerate(picture.nouns):
        yield {
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
