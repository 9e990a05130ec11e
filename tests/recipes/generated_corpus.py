"""The `text` stage's files made from generated sentences only."""

import itertools
from pathlib import Path
from typing import Any

from recipes.tiny import text
from recipes.tiny.settings import Settings
from recipes.tiny.stage import write_json
from recipes.tiny.text import cloze, grammar, knowledge


def write_corpus(work: Path, settings: Settings, *, documents: int) -> dict[str, Any]:
    """Write `work/text`. Returns: the mix of its sources."""
    told, withheld = knowledge.withhold(knowledge.load(), share=text.WITHHELD_SHARE, seed=settings.seed)
    generated = itertools.islice(grammar.documents(told, seed=settings.seed), documents)
    more = itertools.islice(grammar.documents(told, seed=settings.seed + 1), 300)
    train, held_out, mix = text.divide({"wordnet": more, "generated": generated}, share=0.05, seed=settings.seed)
    text.write_documents(work / "text" / "train.txt", train)
    for name, part in held_out.items():
        text.write_documents(work / "text" / f"held_out_{name}.txt", part)
    write_json(work / "text" / "cloze.json", cloze.items(knowledge.load(), withheld, seed=settings.seed)[:5])
    return mix
