"""The report shows what the tables hold: cells, figures, pictures, and what cannot be compared."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lens_multimodal.experiments import EXPERIMENTS, Drawing, Summary
from lens_multimodal.experiments.claims import YES_BUT, YES_OPEN, Claim, claims_of
from lens_multimodal.experiments.control_effects import ARTEFACT
from lens_multimodal.experiments.paper_reference import PaperNumber, paper_number, paper_numbers
from lens_multimodal.experiments.run_results import is_paper_setting
from lens_multimodal.experiments.shared.summaries import NOT_ESTABLISHED, TOO_FEW, YES, Verdict
from lens_multimodal.image.geometry import ImageGeometry
from lens_multimodal.image.layout import ImageLayout
from lens_multimodal.views.report import markdown, page
from lens_multimodal.views.report.cases import Cases, cases_of
from lens_multimodal.views.report.content import Report, Section, entry_of, finding_of
from lens_multimodal.views.report.summary_figures import figure_of
from lens_multimodal.views.report.tables import number, table_of, text_of
from tests.lenses import picture

CURVE = pd.DataFrame(
    {
        "neurons": ["top", "top", "random", "random"],
        "n_neurons": [1, 1000, 1, 1000],
        "mean": [-0.1, -0.8, 0.0, 0.01],
        "low": [-0.2, -0.9, -0.1, np.nan],
        "high": [-0.05, -0.7, 0.1, np.nan],
        "n": [20, 20, 20, 1],
    }
)


def summary(**changed: Any) -> Summary:
    given: dict[str, Any] = {
        "frame": CURVE,
        "title": "Left <b>over</b>",
        "caption": "Of the noun.",
        "n_pictures": 20,
        "paper_keys": (None, "causal.relative_probability_change.top", None, "causal.caption_bertscore.top"),
        "drawing": Drawing(kind="curve", x="n_neurons", series="neurons", log_x=True),
    }
    return Summary(**{**given, **changed})


def report(*summaries: Summary, same_setting: bool = False, **changed: Any) -> Report:
    entries = tuple(entry_of(one, same_setting=same_setting) for one in summaries)
    given: dict[str, Any] = {
        "title": "Multimodal neurons",
        "sections": (Section(name="causal", question="Do they cause the word?", entries=entries),),
        "findings": (),
        "same_setting": same_setting,
        "cases": Cases(fields=None, ablations=None, absent=()),
        "n_pictures": 20,
        "errors": (),
        "smallest_batch": None,
        "manifest": {
            "data": {"scenes": 440},
            "seed": 3,
            "model": {"n_layers": 8, "d_mlp": 768, "class": "TransformerBridge", "dtype": "float32", "device": "cpu"},
            "versions": {"torch": "2.1"},
        },
    }
    return Report(**{**given, **changed})


def test_intervals_share_a_column_and_the_paper_stands_beside() -> None:
    table = table_of(summary(), same_setting=True)
    assert table.header == ("neurons", "neurons ablated", "mean [95% interval]", "pictures", "paper")
    assert table.rows[1] == ("top", "1,000", "-0.800 [-0.900, -0.700]", "20", "-0.8 (recalled)")
    assert table.rows[3] == ("random", "1,000", "0.010", "1", "not available")
    assert table.rows[0][-1] == ""
    assert table.numeric == (False, True, True, True, False)


def test_the_papers_number_is_marked_where_it_is_not_comparable() -> None:
    heading = table_of(summary(), same_setting=False).header[-1]
    assert "GPT-J-6B" in heading
    assert "COCO" in heading
    assert heading.endswith("another model and data set")
    html = page(report(summary()))
    assert "for orientation, not for comparison" in html
    assert "for orientation, not for comparison" not in page(report(summary(), same_setting=True))


def test_which_runs_are_the_papers() -> None:
    model = {"n_layers": 28, "d_model": 4096, "grid": [14, 14]}
    assert is_paper_setting({"model": model, "folder": "/data/coco/val2017"})
    assert not is_paper_setting({"model": model, "folder": "/data/scenes/images"})
    assert not is_paper_setting({"model": {**model, "n_layers": 8}, "folder": "/data/coco/val2017"})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"), (12.345, "12.3"), (123456.7, "123,457"), (0.00001, "1.0e-05"), (0.0, "0.000"), (7, "7"),
        (True, "yes"), (None, "-"), (float("nan"), "-"), (["a", "b"], "a b"), ("word", "word"),
        (np.int64(1200), "1,200"),
    ],
)  # fmt: skip
def test_cells(value: object, text: str) -> None:
    assert text_of(value) == text


def test_an_interval_has_the_decimals_of_its_largest_number() -> None:
    rows = [(-0.936, -1.0412, -0.812), (1.0, 1.0, 1.0), (0.002, 0.00026, 0.005), (0.0001, -0.00002, 0.0003)]
    frame = pd.DataFrame([(*row, 9) for row in rows], columns=["mean", "low", "high", "n"])
    table = table_of(summary(frame=frame, paper_keys=(), drawing=None), same_setting=True)
    assert [row[0] for row in table.rows] == [
        "-0.94 [-1.04, -0.81]", "1.00 [1.00, 1.00]", "0.002 [0.000, 0.005]", "1.0e-04 [-2.0e-05, 3.0e-04]",
    ]  # fmt: skip


COMPARED = pd.DataFrame(
    {
        "compared": ["top", "random"],
        "mean": [0.4, 0.1],
        "low": [0.3, 0.0],
        "high": [0.5, 0.2],
        "n": [9, 9],
        "control": [False, True],
    }
)


def concluded(text: str, answer: str = YES, **changed: Any) -> Summary:
    """A summary with a claim and its verdict."""
    verdict = Verdict(text=text, answer=answer, compared=COMPARED, unit="share <of> it")
    return summary(conclusion=verdict, claim="Top neurons <b>matter</b>.", **changed)


def claims(control: str, *, own: str = YES) -> list[Claim]:
    """Claims of a run with the ablation, and with a control that came out as given."""
    part = Verdict(
        text=f"it is {control} (n = 9 pictures).", answer=control, compared=COMPARED, unit="probability lost"
    )
    both = Verdict(text=part.text, parts={"ablation": part, "caption": Verdict(text="Seen.", answer=YES)})
    causal = concluded("They do.", own, control="ablation")
    return claims_of({"causal": {"probability": causal}, "controls": {"differences": summary(conclusion=both)}})


@pytest.mark.parametrize(
    ("control", "answer"),
    [(YES, YES), (ARTEFACT, YES_BUT), (NOT_ESTABLISHED, YES_OPEN), (TOO_FEW, YES_OPEN)],
)
def test_a_claim_has_one_verdict_in_which_the_control_has_its_say(control: str, answer: str) -> None:
    causal, caption = claims(control)
    assert causal.answer == answer
    said = "Controls without the picture: it" if control == TOO_FEW else "It"
    assert causal.text == f"They do. {said} is {control} (n = 9 pictures)."
    assert [verdict.unit for verdict in causal.evidence] == ["share <of> it", "probability lost"]
    assert causal.paper == paper_number("causal.finding")
    assert (caption.text, caption.answer, caption.paper) == ("Seen.", YES, None)
    findings = tuple(map(finding_of, (causal, caption)))
    shown = report(concluded("They do."), findings=findings)
    html = page(shown)
    assert html.count("They do.") == 1, "the verdict stands in one place"
    assert markdown(shown).count("They do.") == 1
    assert html.count('<p class="answer artefact">') == (answer == YES_BUT)


def test_a_claim_that_does_not_hold_is_not_tested_without_the_picture() -> None:
    (causal, caption) = claims(ARTEFACT, own=NOT_ESTABLISHED)
    assert (causal.answer, causal.text, len(causal.evidence)) == (NOT_ESTABLISHED, "They do.", 1)
    assert caption.text == "Seen."


def test_effects_of_the_controls_stand_alone_where_their_claim_did_not_run() -> None:
    part = Verdict(text="it remains.", answer=ARTEFACT)
    (alone,) = claims_of({"controls": {"differences": summary(conclusion=Verdict(text="x", parts={"ablation": part}))}})
    assert alone.answer == "no, also without it"
    assert alone.text == "It remains."


def test_each_finding_has_a_figure_of_effect_and_control() -> None:
    (causal, _) = claims(YES)
    figures = finding_of(causal).figures
    assert len(figures) == 2
    (bars,) = figures[0].data
    assert list(bars.y) == ["top", "random"]
    assert list(bars.x) == [0.4, 0.1]
    assert len(set(bars.marker.color)) == 2, "the control has its own colour"
    assert np.allclose(bars.error_x.array, [0.1, 0.1])
    html = page(report(concluded("80 % of it"), findings=(finding_of(causal),)))
    assert "Top neurons &lt;b&gt;matter&lt;/b&gt;." in html


def test_p_values_are_never_zero() -> None:
    assert text_of(0.00009, "p") == "< 0.001"
    assert text_of(0.0312, "p") == "0.031"
    assert number(float("inf")) == "-"


def test_a_curve_draws_the_numbers_and_their_bands() -> None:
    figure = figure_of(summary())
    assert figure is not None
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert list(lines["top"].x) == [1, 1000]
    assert list(lines["top"].y) == [-0.1, -0.8]
    bands = {trace.name: trace for trace in figure.data if trace.fill == "toself"}
    assert list(bands["top band"].y) == [-0.05, -0.7, -0.9, -0.2]
    assert list(bands["random band"].x) == [1, 1], "a band was drawn where there is no interval"
    assert figure.layout.xaxis.type == "log"
    assert figure.layout.title.text == "Left &lt;b&gt;over&lt;/b&gt; (20 pictures)"
    assert lines["top"].line.color != lines["random"].line.color


def test_bars_have_whiskers_and_panels_their_rows() -> None:
    bars = figure_of(summary(drawing=Drawing(kind="bars", x="n_neurons", series="neurons", panels="neurons")))
    assert bars is not None
    top = bars.data[0]
    assert [a.text for a in bars.layout.annotations] == ["top", "random"]
    assert np.allclose(top.error_y.array, [0.05, 0.1])
    assert np.allclose(top.error_y.arrayminus, [0.1, 0.1])
    words = CURVE.assign(kind=["<a>", "b", "<a>", "b"], measure=["p", "p", "q", "q"])
    lying = figure_of(summary(frame=words, drawing=Drawing(kind="bars", x="kind", panels="measure", reference=0.0)))
    assert lying is not None
    assert list(lying.data[1].y) == ["&lt;a&gt;", "b"], "bars with words for names must lie"
    assert list(lying.data[1].x) == [0.0, 0.01]
    assert np.allclose(lying.data[0].error_x.array, [0.05, 0.1])
    layers = figure_of(
        summary(
            frame=pd.DataFrame({"layer": [0, 1], "share": [0.4, 0.6]}),
            paper_keys=(),
            drawing=Drawing(kind="bars", x="layer", y="share"),
        )
    )
    assert layers is not None
    assert list(layers.data[0].y) == [0.4, 0.6]


def test_nothing_to_draw_draws_nothing() -> None:
    assert figure_of(summary(drawing=None)) is None
    assert figure_of(summary(frame=CURVE.head(0), paper_keys=())) is None


def test_summaries_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\b4 rows .* 1 paper keys"):
        summary(paper_keys=("causal.finding",))
    with pytest.raises(ValueError, match=r"\['depth'\].*\['neurons'"):
        summary(drawing=Drawing(kind="curve", x="depth"))
    with pytest.raises(ValueError, match=r"curve, bars.*'pie'"):
        Drawing(kind="pie", x="n")


def test_the_page_fetches_nothing_and_escapes_everything() -> None:
    finding = finding_of(replace(claims(YES)[0], text="A <script>alert(1)</script> & more"))
    html = page(report(summary(), summary(drawing=None), findings=(finding,)))
    assert not re.search(r"<script[^>]+src=", html)
    outside = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert "http" not in outside
    assert "<script>alert" not in html
    assert "A &lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert html.count("plotly.js v") == 1, "plotly's code is not in the page exactly once"
    assert html.count("Plotly.newPlot(") >= 1


def test_the_page_explains_its_brackets_and_names_its_versions() -> None:
    html = page(report(summary()))
    assert "95 % bootstrap intervals over pictures" in html
    assert "at least 6 pictures" in html
    assert "torch 2.1;" in html


def test_every_finding_of_the_paper_stands_beside_the_verdict_on_its_own_question() -> None:
    summaries = {
        "discovery": {"words": concluded("They write."), "layers": concluded("They lie early.")},
        "causal": {"probability": summary(), "difference": concluded("Other.")},
        "depth": {"attention cuts": concluded("Until layer 3.")},
    }
    first, *others = claims_of(summaries)
    assert first.paper is not None, "the paper's own claims come first"
    assert (first.paper.what, first.text) == ("where translation between the modalities happens", "They lie early.")
    assert str(first.paper) == "deeper within the transformer (seen)"
    assert [(claim.text, claim.paper) for claim in others] == [
        ("They write.", None), ("Other.", None), ("Until layer 3.", None),
    ]  # fmt: skip
    answering = {name for name, experiment in EXPERIMENTS.items() if experiment.answer}
    assert answering == {key.split(".")[0] for key in paper_numbers() if key.endswith(".finding")}
    for name in answering:
        assert EXPERIMENTS[name].answer in {table.name for table in EXPERIMENTS[name].summaries}


def test_a_series_that_only_a_later_panel_has_is_in_the_legend_once() -> None:
    frame = pd.DataFrame({"kind": ["x", "x", "x", "x"], "way": ["p", "q", "q", "r"], "of": ["a", "a", "b", "b"]})
    drawn = figure_of(
        summary(
            frame=frame.assign(mean=1.0),
            paper_keys=(),
            drawing=Drawing(kind="bars", x="kind", series="of", panels="way"),
        )
    )
    assert drawn is not None
    assert [trace.name for trace in drawn.data if trace.showlegend] == ["a", "b"]


def test_what_went_wrong_is_reported() -> None:
    broken = report(summary(), errors=({"image_id": 1, "file": "bad.jpg", "error": "cut off"},), smallest_batch=4)
    for text in (page(broken), markdown(broken)):
        assert "1 pictures could not be read and are left out (bad.jpg)" in text
        assert "halved down to 4 rows" in text
    assert "<li>bad.jpg: cut off</li>" in page(broken)


def test_entries_of_the_data_that_were_left_out_are_reported() -> None:
    sound = report(summary())
    left_out = {"objects whose picture is not listed": 12, "captions without text": 1}
    told = report(summary(), manifest={**sound.manifest, "left_out": left_out})
    for text in (page(told), markdown(told)):
        assert "12 objects whose picture is not listed, 1 captions without text" in text
    assert "<li>12 objects whose picture is not listed</li>" in page(told)
    assert "not listed" not in page(sound)


def test_markdown_holds_the_tables_and_the_settings() -> None:
    text = markdown(report(summary(), findings=(finding_of(replace(claims(YES)[0], text="a | b")),)))
    assert "| top | 1,000 | -0.800 [-0.900, -0.700] | 20 | -0.8 (recalled) |" in text
    assert "a \\| b" in text
    assert json.loads(text.split("```json")[1].split("```")[0])["seed"] == 3


def test_the_papers_numbers_state_their_status() -> None:
    assert {entry.status for entry in paper_numbers().values()} == {"seen", "recalled", "unknown"}
    assert str(paper_number("selectivity.iou.top")) == "not available"
    assert str(paper_number("discovery.neurons")) == "458,752 (seen)"
    assert paper_number("projection.finding").status == "seen"
    with pytest.raises(KeyError, match=r"'causal\.nothing'.* projection\.finding"):
        paper_number("causal.nothing")
    common = {"key": "k", "what": "w", "unit": "u", "finding": None, "source": "s"}
    with pytest.raises(ValueError, match=r"k: .*unknown"):
        PaperNumber(**common, value=0.5, status="unknown")
    with pytest.raises(ValueError, match=r"k: .*seen"):
        PaperNumber(**common, value=None, status="seen")
    with pytest.raises(ValueError, match=r"'guessed'.* seen, recalled, unknown"):
        PaperNumber(**common, value=0.5, status="guessed")


LAYOUT = ImageLayout.one_grid(
    3, 3, ImageGeometry(
        width=30, height=20, resized_width=24, resized_height=24, left=0, top=0, input_width=24, input_height=24,
        grid_h=3, grid_w=3,
    )
)  # fmt: skip


def world(folder: Path, overlaps: list[float | None]) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Tables as the experiments write them, for random pictures."""
    maps, captions, ablations = [], [], []
    for i, overlap in enumerate(overlaps):
        picture(i).save(folder / f"{i}.png")
        said = {"caption": f"a dog {i}", "human_caption": f"dog number {i}", "file_name": f"{i}.png"}
        captions.append({"image_id": i, **said})
        for neuron in (-1, 5):
            own = {
                "layer": neuron,
                "neuron": neuron,
                "tokens": np.array([" dog", " cat"] if neuron > 0 else [], dtype=object),
            }
            grid = {"activation": np.arange(9.0).tolist(), "layout": LAYOUT.to_json(), "iou": overlap}
            maps.append({"image_id": i, "noun": "dog", **own, **grid})
        for count in (10, 100, 1000):
            for kind, change in (("top", -0.1 * i), ("random", 0.0)):
                if (count, kind) != (1000, "random"):
                    one = {"n_neurons": count, "neurons": kind, "relative_change": change - count / 1e4, "own": True}
                    ablations.append({"image_id": i, "noun": "dog", "n_model": 9000, **one})
    tables = {
        "selectivity.maps": pd.DataFrame(maps),
        "discovery.captions": pd.DataFrame(captions),
        "causal.ablations": pd.DataFrame(ablations),
        "causal.captions": pd.DataFrame(
            [
                (1, "dog", "top", 10, "a cat"),
                (1, "dog", "random", 10, "a dog"),
                (1, "dog", "top", 100, "a hat"),
                (1, "dog", "random", 100, "a dog 1"),
                (1, "dog", "top", 1000, "a sea"),
            ],
            columns=["image_id", "noun", "neurons", "n_neurons", "caption_after"],
        ),
    }
    return tables, {"folder": str(folder)}


def test_the_extremes_are_the_extremes(tmp_path: Path) -> None:
    tables, manifest = world(tmp_path, [0.3, 0.9, None, 0.1, 0.5])
    cases = cases_of(tables, manifest, each=2)
    assert cases.fields is not None
    assert [case.iou for case in cases.fields.best] == [0.9, 0.5]
    assert [case.iou for case in cases.fields.worst] == [0.1, 0.3]
    assert cases.fields.n_pictures == 4
    best = cases.fields.best[0]
    assert best.caption == "a dog 1"
    assert [shown.label for shown in best.maps] == [
        "mean of the top neurons, IoU 0.900",
        "layer 5, neuron 5, IoU 0.900",
    ]
    assert best.maps[1].tokens == "dog cat"
    assert cases.ablations is not None
    assert [round(case.left, 3) for case in cases.ablations.best] == [0.59, 0.69]
    assert [round(case.left, 3) for case in cases.ablations.worst] == [0.99, 0.89]
    assert {case.n_neurons for case in cases.ablations.best} == {100}, "1.4 % of the model's 9,000 neurons at most"
    shown = cases.ablations.worst[1]
    assert (shown.caption_after, shown.caption_random, shown.n_caption) == ("a hat", "a dog 1", 100), "1000: no control"
    assert cases.ablations.best[0].n_caption == 0, "no caption was written"
    html = page(report(summary(), cases=cases))
    assert html.count("data:image/jpeg;base64,") == 4 * 3 + 4 + 3
    assert re.search(r'probability of <span class="word">dog</span>: 59&nbsp;% of it left', html)
    assert re.search(r"without the top 100: “a hat”<br>\s*without 100 random: “a dog 1”", html)


def test_the_example_is_a_picture_whose_caption_changes_without_the_top_neurons_only(tmp_path: Path) -> None:
    tables, manifest = world(tmp_path, [0.3, 0.9, 0.1, 0.5])
    example = cases_of(tables, manifest).example
    assert example is not None
    case, ablated = example
    assert (case.caption, ablated.caption, ablated.caption_after) == ("a dog 1", "a dog 1", "a hat")
    html = page(report(summary(), cases=cases_of(tables, manifest)))
    assert html.index('id="example"') < html.index('id="causal"'), "the example comes before the tables"
    unchanged = tables["causal.captions"].assign(caption_after="a dog 1")
    example = cases_of({**tables, "causal.captions": unchanged}, manifest).example
    assert example is not None
    assert example[1].left == pytest.approx(1 - 0.3 - 0.01), "else the one that loses most"
    assert cases_of({**tables, "selectivity.maps": pd.DataFrame()}, manifest).example is None


def test_no_picture_is_at_both_ends_and_missing_files_are_listed(tmp_path: Path) -> None:
    tables, manifest = world(tmp_path, [0.3, 0.9, 0.5])
    cases = cases_of(tables, manifest)
    assert cases.fields is not None
    assert [case.iou for case in (*cases.fields.best, *cases.fields.worst)] == [0.9, 0.5, 0.3]
    (tmp_path / "1.png").unlink()
    fewer = cases_of(tables, manifest)
    assert fewer.absent == ("1.png",)
    assert fewer.fields is not None
    assert [case.iou for case in (*fewer.fields.best, *fewer.fields.worst)] == [0.5, 0.3]
    assert "1 picture files are no longer where the run read them" in page(report(summary(), cases=fewer))


def test_a_run_without_these_tables_shows_no_pictures(tmp_path: Path) -> None:
    assert cases_of({}, {"folder": str(tmp_path)}) == Cases(fields=None, ablations=None, absent=())


def test_without_any_overlap_the_maps_are_shown_with_a_note(tmp_path: Path) -> None:
    tables, manifest = world(tmp_path, [None, None])
    cases = cases_of(tables, manifest)
    assert cases.fields is not None
    assert [case.iou for case in cases.fields.best] == [None]
    html = page(report(summary(), cases=cases))
    assert "so the pictures are not chosen by overlap" in html
    assert "which is not annotated in this picture" in html
    assert "Where the neurons look at the object most" not in html


def test_pictures_are_embedded_small(tmp_path: Path) -> None:
    tables, manifest = world(tmp_path, [0.5, 0.6])
    Image.new("RGB", (3000, 2000), "red").save(tmp_path / "0.png")
    cases = cases_of(tables, manifest)
    assert cases.fields is not None
    assert len(cases.fields.worst[0].picture) < 10_000
