"""How the next token is chosen."""

from dataclasses import dataclass

from lens_multimodal.transformer.losses_and_penalties import check_penalties

LOWEST_TEMPERATURE = 0.01
"""Logits of hundreds divided by less leave the range of 16-bit floats."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen; the default is greedy.

    Raises: ValueError for numbers outside their range, for top_k, top_p or a temperature without sampling, and for
        beams with it.
    """

    do_sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    num_beams: int = 1
    repetition_penalty: float = 1.0
    """Positive logits of words that the prompt or the text so far holds are divided by it, negative ones multiplied."""
    frequency_penalty: float = 0.0
    """What a word's logit, divided by the temperature, loses for each time that the prompt or the text so far holds it.
    Image positions do not count as words in either."""

    def __post_init__(self) -> None:
        check_penalties(self.repetition_penalty, self.frequency_penalty)
        if not self.do_sample and (self.top_k, self.top_p, self.temperature) != (None, None, 1.0):
            raise ValueError("top_k, top_p and temperature choose among samples: set do_sample=True with them")
        if not LOWEST_TEMPERATURE <= self.temperature < float("inf"):
            raise ValueError(
                f"the temperature must be finite and at least {LOWEST_TEMPERATURE}, got {self.temperature}; the "
                f"most likely token is taken without do_sample"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.do_sample and self.num_beams > 1:
            raise ValueError(f"beam search does not sample: use either do_sample or num_beams={self.num_beams}")
        if self.num_beams < 1:
            raise ValueError(f"num_beams must be at least 1, got {self.num_beams}")


GREEDY = Sampling()
