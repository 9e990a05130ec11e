import pytest
import torch

from lens_multimodal.analysis import (
    CaptionCase,
    WordOverlap,
    caption_effect_of,
    caption_effects_against_random,
    effect_of,
    summary_against_random,
)
from lens_multimodal.analysis.effects.against_random import trials
from lens_multimodal.hooks import ablate
from tests.lenses import D_MODEL, each_case, hugging_face, inputs_embeds, picture, random_prompt
from tests.models import D_VOCAB, MLP_OUT

N_NEW = 6
NEURONS = [(layer, neuron) for layer in range(3) for neuron in range(0, 40, 2)]


@torch.no_grad()
def continued(layout, row, positions):
    """Greedy token ids by plain transformers without a cache, some neurons zero at some positions of every pass."""
    model = hugging_face(layout)
    readers = [m for name, m in model.named_modules() if name.endswith(MLP_OUT[layout])]

    def zero(_module, args):
        given = args[0].clone().reshape(1, -1, args[0].shape[-1])
        given[0, torch.as_tensor(positions, dtype=torch.long)[:, None], torch.arange(0, 40, 2)] = 0
        return (given.reshape(args[0].shape),)

    handles = [reader.register_forward_pre_hook(zero) for reader in readers] if len(positions) else []
    embedded, ids = inputs_embeds(model, row), []
    try:
        for _ in range(N_NEW):
            ids.append(int(model(inputs_embeds=embedded).logits[0, -1].argmax()))
            new = model.get_input_embeddings()(torch.tensor([[ids[-1]]]))
            embedded = torch.cat([embedded, new], dim=1)
    finally:
        for handle in handles:
            handle.remove()
    return ids


def text_of(lens, ids):
    """As `VisionLens.generate` ends its text."""
    stop = next((i for i, token in enumerate(ids) if token in lens.text.stop_ids), len(ids))
    return lens.text.decode(ids[:stop]).split("\n")[0].strip()


@each_case
def test_captions_of_a_padded_batch_equal_plain_transformers_rerun_for_every_token(lens_of, layout, kind):
    lens = lens_of(layout, kind)
    prompt = random_prompt(lens, [6, -4], [6, -2], [-1, 6, -3], [6, -4], seed=5)

    hooks_before = [len(point.fwd_hooks) for point in lens.model.hook_dict.values()]

    def at_the_image(rows):
        return ablate(lens.model, NEURONS, positions=rows.image_mask)

    effect = caption_effect_of(lens, prompt, at_the_image, max_new_tokens=N_NEW)
    rows = [prompt.row(i) for i in range(4)]
    assert effect.before == tuple(text_of(lens, continued(layout, row, [])) for row in rows)
    assert effect.after == tuple(text_of(lens, continued(layout, row, row.image_pos[0])) for row in rows)
    assert effect.changed.tolist() == [a != b for a, b in zip(effect.before, effect.after, strict=True)]
    assert effect.changed.any(), "the intervention must change something, or this tests nothing"
    assert torch.equal(effect.similarity, WordOverlap()(effect.before, effect.after))
    assert list(effect.table()) == ["caption_before", "caption_after", "caption_changed", "word_overlap"]
    assert [len(point.fwd_hooks) for point in lens.model.hook_dict.values()] == hooks_before


def test_generated_tokens_are_edited_only_by_positions_without_an_end(lens):
    prompt = random_prompt(lens, [6, -4], [6, -4], seed=1)
    everywhere = caption_effect_of(lens, prompt, ablate(lens.model, NEURONS), max_new_tokens=N_NEW)
    in_prompt = caption_effect_of(lens, prompt, ablate(lens.model, NEURONS, positions=range(10)), max_new_tokens=N_NEW)
    for i in range(2):
        assert everywhere.after[i] == text_of(lens, continued_everywhere("gpt-j", prompt.row(i)))
        assert in_prompt.after[i] == text_of(lens, continued("gpt-j", prompt.row(i), range(10)))
    assert everywhere.after != in_prompt.after


def continued_everywhere(layout, row):
    model = hugging_face(layout)
    readers = [m for name, m in model.named_modules() if name.endswith(MLP_OUT[layout])]
    weights = [reader.weight.detach().clone() for reader in readers]
    with torch.no_grad():
        for reader in readers:
            reader.weight[:, 0:40:2] = 0
    try:
        return continued(layout, row, [])
    finally:
        with torch.no_grad():
            for reader, weight in zip(readers, weights, strict=True):
                reader.weight.copy_(weight)


def test_against_random_holds_captions_and_predictions_of_every_draw(lens):
    prompts = [lens.prompt(picture(seed), "w5 w6") for seed in range(3)]
    chosen = NEURONS[::2]
    cases = [
        CaptionCase(prompt=prompt, target=11 + i, name=f"picture {i}", neurons=chosen, positions=prompt.image_pos[0])
        for i, prompt in enumerate(prompts)
    ]
    table = caption_effects_against_random(
        lens, cases, counts=(5, len(chosen)), n_random=2, seed=3, max_new_tokens=N_NEW, batch_size=4
    )
    assert table["case"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert table["chosen"].tolist() == [True, False, False] * 6
    assert table["draw"].tolist() == [0, 1, 2] * 6
    assert table["n_neurons"].tolist() == ([5] * 3 + [len(chosen)] * 3) * 3
    settings = {"counts": (5, len(chosen)), "n_random": 2, "seed": 3}
    drawn = [trial for number in range(3) for trial in trials(lens.model, chosen, key=(number,), **settings)]
    for (_, row), trial in zip(table.iterrows(), drawn, strict=True):
        case = cases[row["case"]]
        assert row["name"] == case.name
        hooks = ablate(lens.model, trial.neurons, positions=case.prompt.image_pos[0])
        alone = caption_effect_of(lens, case.prompt, hooks, max_new_tokens=N_NEW)
        assert (row["caption_before"], row["caption_after"]) == (alone.before[0], alone.after[0])
        assert row["caption_changed"] == bool(alone.changed[0])
        assert row["word_overlap"] == float(alone.similarity[0])
        prediction = effect_of(lens.model, case.prompt.tokens, hooks, case.target)
        assert row["kl"] == pytest.approx(float(prediction.kl), abs=1e-6)
        assert row["token"] == case.target
    random = [trial.neurons for trial in drawn if not trial.chosen]
    assert len(random) == 12
    assert all(not set(map(tuple, neurons.values)) & set(chosen[: len(neurons)]) for neurons in random)
    table = table[table["n_neurons"] == len(chosen)]
    for column in ("caption_changed", "word_overlap", "probability_change"):
        summary = summary_against_random(table, column=column)
        expected = table[table["chosen"]][column].mean() - table[~table["chosen"]][column].mean()
        assert summary.loc["difference", "mean"] == pytest.approx(expected)
        assert summary.loc["difference", "low"] <= expected <= summary.loc["difference", "high"]


def test_neurons_replaced_everywhere_are_so_in_generated_tokens_too(lens):
    prompt = random_prompt(lens, [6, -4], seed=1)
    for positions in (None, slice(3, None), range(10)):
        case = CaptionCase(prompt=prompt, neurons=NEURONS, positions=positions)
        table = caption_effects_against_random(lens, [case], n_random=1, max_new_tokens=N_NEW)
        hooks = ablate(lens.model, NEURONS, positions=positions)
        alone = caption_effect_of(lens, prompt, hooks, max_new_tokens=N_NEW)
        assert table["caption_after"][0] == alone.after[0]


def test_a_target_may_be_read_further_on(lens):
    prompt, read = lens.prompt(picture(0), "w5"), lens.prompt(picture(0), "w5 w6 w7")
    case = CaptionCase(prompt=prompt, target=11, read=read, neurons=NEURONS, positions=prompt.image_pos[0])
    hooks = ablate(lens.model, NEURONS, positions=prompt.image_pos[0])
    table = caption_effects_against_random(lens, [case], n_random=1, max_new_tokens=3)
    expected, at_the_end = (effect_of(lens.model, where.tokens, hooks, 11) for where in (read, prompt))
    assert table["logit_after"][0] == pytest.approx(float(expected.logit_after))
    assert float(expected.logit_after) != pytest.approx(float(at_the_end.logit_after))


def test_bad_input_is_named(lens):
    padded = random_prompt(lens, [6, -4], [6, -2])
    hooks = ablate(lens.model, NEURONS, positions=range(6))
    with pytest.raises(ValueError, match=r"\[8, 10\]"):
        caption_effect_of(lens, padded, hooks)
    with pytest.raises(ValueError, match="no hooks"):
        caption_effect_of(lens, padded, lambda _rows: [])
    with pytest.raises(ValueError, match="hook_nowhere"):
        caption_effect_of(lens, padded.row(0), [("blocks.0.hook_nowhere", hooks[0][1])])
    with pytest.raises(ValueError, match="64"):
        caption_effect_of(lens, padded.row(0), hooks, max_new_tokens=60)

    def run(cases, **settings):
        return caption_effects_against_random(lens, cases, max_new_tokens=2, **settings)

    two = NEURONS[:2]
    with pytest.raises(ValueError, match=r"caption_effects_against_random\(n_random=...\): .* -1"):
        run([], n_random=-1)
    with pytest.raises(ValueError, match=r"caption_effects_against_random\(cases=...\)"):
        run([])
    with pytest.raises(ValueError, match=r"one row\b.* 2"):
        run([CaptionCase(prompt=padded, neurons=two)])
    some = [CaptionCase(prompt=padded.row(0), target=target, neurons=two) for target in (11, None)]
    with pytest.raises(ValueError, match=r"caption_effects_against_random\(cases=...\): case 1 .*no target"):
        run(some, n_random=1)
    with pytest.raises(ValueError, match=r"\(cases=...\): case 1 .*a target"):
        run(some[::-1], n_random=1)
    with pytest.raises(ValueError, match=r"one target\b.* 2"):
        run([CaptionCase(prompt=padded.row(0), target=[11, 12], neurons=two)], n_random=1)
    with pytest.raises(ValueError, match=f"{D_VOCAB} .*outside"):
        run([CaptionCase(prompt=padded.row(0), target=D_VOCAB, neurons=two)], n_random=1)
    assert padded.spans[0][0].image.soft_prompt.vectors.shape[1] == D_MODEL
