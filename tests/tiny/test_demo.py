"""A short `make demo`: the page holds the pictures, the captions and the neurons, and fetches nothing."""

import html
import re
from pathlib import Path

import pytest

from lens_multimodal import ablate, attach_vision, demo
from lens_multimodal.analysis import decode_neurons, effect_of, top_neurons

pytestmark = pytest.mark.newest


@pytest.mark.slow
def test_the_page_is_complete_and_self_contained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.html"
    demo.main(["--out", str(out), "--pictures", "6"])
    said = capsys.readouterr().out
    page = out.read_text()
    report = (tmp_path / "demo_report.html").read_text()
    verdicts = [line.removeprefix("* ") for line in said.splitlines() if line.startswith("* ")]
    assert verdicts
    texts = [html.unescape(text).replace("\u00a0", " ") for text in (page, report)]
    assert all(verdict in text for verdict in verdicts for text in texts)
    assert 'href="demo_report.html"' in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.html", "demo_report.html", "demo_report.md"]
    assert said.count("->") == 12
    assert page.count("data:image/jpeg;base64,") >= 12
    body = page.split("<h2>The neurons behind a word</h2>")[1]
    assert body.count("Where the picture is read</h4>") == body.count("Where the word is predicted</h4>") > 0
    assert not re.search(r"<script[^>]+src=", page)
    outside_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="https?://', outside_scripts)
    for line in said.splitlines():
        if "->" in line:
            assert f"A picture of {line.split('-> ')[1]}" in page.replace("&#39;", "'")


@pytest.mark.slow
def test_both_places_are_measured_and_captions_that_change_come_first() -> None:
    lens = attach_vision()
    scenes = [scene for scene in demo.caption_scenes(lens, demo.sample_scenes(each=3)) if scene.names_its_object]
    explained = [demo.explain(lens, scene, shown=2) for scene in scenes]
    shown = demo.in_order_shown(explained[::-1])
    assert [one.changed for one in shown] == sorted((one.changed for one in explained), reverse=True)
    for one in explained:
        word = f" {one.word}"
        prompt = lens.prompt_before(one.scene.picture, word)
        for place, positions in ((one.image, prompt.image_pos[0]), (one.last, [prompt.last_pos])):
            ranked = top_neurons(lens.model, prompt.tokens, word, positions, top_k=max(demo.COUNTS))
            effect = effect_of(lens.model, prompt.tokens, ablate(lens.model, ranked, positions=positions), word)
            left = 1 + float(effect.relative_probability_change[0])
            assert place.probability_left["top"][-1] == pytest.approx(left, rel=1e-3, abs=1e-4)
            tokens = decode_neurons(lens.model, ranked.head(20))["tokens"]
            assert place.n_writing == sum(word in own or one.word in own for own in tokens)
            kept = ranked.merge(place.neurons[["layer", "neuron"]])
            assert len(kept) == len(place.neurons)
            assert set(place.neurons["whole_words"]) in ({True}, {False})
