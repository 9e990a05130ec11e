"""What a run found: each claim with one verdict that takes the controls into account.

An experiment compares a claim's effect with random neurons or tokens; the experiment `controls` tests some of these
effects again without the picture. Both belong to one verdict, so that the report cannot say yes in one place and no in
another.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lens_multimodal.experiments.control_effects import ARTEFACT, EFFECTS
from lens_multimodal.experiments.controls import Controls
from lens_multimodal.experiments.paper_reference import PaperNumber, paper_number
from lens_multimodal.experiments.registry import EXPERIMENTS
from lens_multimodal.experiments.shared.summaries import TOO_FEW, YES, Summary, Verdict

YES_BUT = "yes, but also without the picture"
YES_OPEN = "yes; whether because of the picture is not established"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim and its verdict."""

    experiment: str
    title: str
    claim: str
    """A statement, or "" for a verdict that answers none."""
    answer: str
    """`YES`, `OPPOSITE`, `NOT_ESTABLISHED` or `TOO_FEW` of `summaries`, `YES_BUT` or `YES_OPEN`; "" without a claim."""
    text: str
    """The verdict in sentences."""
    evidence: tuple[Verdict, ...]
    """The comparison with the claim's control; then, where there is one, that without the picture."""
    paper: PaperNumber | None
    """What the paper found on the same question."""


def claims_of(summaries: Mapping[str, Mapping[str, Summary]]) -> list[Claim]:
    """All claims of a run that have a verdict, the paper's own claims first."""
    found = list(_claims(summaries))
    return sorted(found, key=lambda claim: claim.paper is None)


def _claims(summaries: Mapping[str, Mapping[str, Summary]]) -> Iterator[Claim]:
    effects = {
        effect: verdict
        for summary in summaries.get(Controls.name, {}).values()
        for effect, verdict in summary.conclusion.parts.items()
    }
    for name, experiment in EXPERIMENTS.items():
        for key, summary in summaries.get(name, {}).items():
            if not summary.verdict or summary.conclusion.parts:
                continue
            without = effects.pop(summary.control, None)
            answer, text, evidence = _joined(summary.conclusion, without)
            yield Claim(
                experiment=name,
                title=summary.title,
                claim=summary.claim,
                answer=answer,
                text=text,
                evidence=evidence,
                paper=paper_number(f"{name}.finding") if key == experiment.answer else None,
            )
    # Effects that belong to no claim of another experiment of this run.
    for effect, verdict in effects.items():
        yield Claim(
            experiment=Controls.name,
            title=f"Without the picture: {effect}",
            claim=EFFECTS[effect].claim,
            answer="no, also without it" if verdict.answer == ARTEFACT else verdict.answer,
            text=_capital(verdict.text),
            evidence=(verdict,),
            paper=None,
        )


def _joined(own: Verdict, without: Verdict | None) -> tuple[str, str, tuple[Verdict, ...]]:
    """Answer, text and evidence of a claim; a claim that does not hold needs no test without the picture."""
    if without is None or own.answer != YES:
        return own.answer, own.text, (own,)
    answer = {YES: YES, ARTEFACT: YES_BUT}.get(without.answer, YES_OPEN)
    text = f"Controls without the picture: {without.text}" if without.answer == TOO_FEW else _capital(without.text)
    return answer, f"{own.text} {text}", (own, without)


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"
