"""Tokenizer and language model stages, run for real at toy size."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPTJForCausalLM, PreTrainedTokenizerFast

from recipes.tiny import evaluate_text, language, text, tokenizer
from recipes.tiny.settings import toy
from tests.recipes.generated_corpus import write_corpus

STEPS = 6


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def settings():
    base = toy()
    return replace(base, language=replace(base.language, steps=STEPS, n_ctx=32, warmup=2))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, settings):
    """A work folder whose `text` stage holds generated sentences only, with its tokenizer."""
    work = tmp_path_factory.mktemp("corpus")
    write_corpus(work, settings, documents=2500)
    tokenizer.run(settings, work)
    return work


def copy_of(corpus, folder):
    """Another work folder with the same text and tokenizer."""
    folder.mkdir()
    for name in ("text", "tokenizer"):
        (folder / name).symlink_to(corpus / name)
    return folder


@pytest.fixture(scope="module")
def trained(corpus, settings, tmp_path_factory):
    torch.set_num_threads(1)
    work = copy_of(corpus, tmp_path_factory.mktemp("whole") / "work")
    return work, language.run(settings, work)


def test_tokenizer_round_trip_and_special_token(corpus):
    fast = PreTrainedTokenizerFast.from_pretrained(corpus / "tokenizer")
    auto = AutoTokenizer.from_pretrained(corpus / "tokenizer")
    for sample in ["A picture of a dog.", "Größe, naïve; 犬 🐕 \n\n tabs\t ", " leading and  double", "can't . , !"]:
        for each in (fast, auto):
            assert each.decode(each.encode(sample)) == sample
    assert fast.encode(text.END) == [0]
    assert (fast.bos_token_id, fast.eos_token_id, fast.pad_token_id) == (0, 0, 0)
    assert fast.encode("A dog") == auto.encode("A dog")


def test_every_noun_becomes_one_token_when_there_is_room():
    names = ["dog", "hourglass", "megaphone", "rhinoceros"]
    made, boosted = tokenizer.train("a dog and a dog\n" * 50 + "an hourglass\n", names, vocab_size=400)
    assert tokenizer.split_nouns(made, names) == []
    assert "megaphone" in boosted
    assert "dog" not in boosted


def test_tokenizer_stage_refuses_split_nouns(tmp_path, settings, monkeypatch):
    text.write_documents(tmp_path / "text" / "train.txt", ["short text"])
    monkeypatch.setattr(tokenizer, "BOOSTS", (0,))
    large = replace(settings, tokenizer=replace(settings.tokenizer, vocab_size=5000))
    with pytest.raises(ValueError, match=r"\d+ of 402 nouns .*Tokenizer\.vocab_size"):
        tokenizer.run(large, tmp_path)


def test_rows_predict_every_token_once():
    tokens = np.arange(1, 102)
    rows = language.pack(tokens, 10)
    assert rows.shape == (10, 11)
    assert rows[:, 1:].ravel().tolist() == list(range(2, 102))
    assert (rows[1:, 0] == rows[:-1, -1]).all()


def test_each_pass_sees_each_row_once():
    seen = np.concatenate([language.batch_rows(step, n_rows=10, batch=4, seed=1) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_schedule_does_not_depend_on_the_length_before_the_decay():
    short = replace(toy().language, steps=100, warmup=10)
    long = replace(short, steps=1000)
    assert [language.rate(s, short) for s in range(60)] == [language.rate(s, long) for s in range(60)]
    assert language.rate(0, short) == pytest.approx(0.1)
    assert language.rate(99, short) == pytest.approx(1 / 40)


def test_a_long_run_decays_and_warms_up_again(monkeypatch):
    monkeypatch.setattr(language, "CYCLE_ENDS", (100,))
    short = replace(toy().language, steps=100, warmup=10)
    long = replace(short, steps=300)
    assert [language.rate(s, short) for s in range(100)] == [language.rate(s, long) for s in range(100)]
    assert language.rate(100, long) == pytest.approx(0.1)
    assert language.rate(150, long) == 1
    assert language.rate(299, long) == pytest.approx(1 / 80)


def test_faster_kernels_compute_the_same():
    config = replace(toy().language, n_ctx=24)
    plain = language.build(config, 50, seed=3).double()
    quick = language.build(config, 50, seed=3).double()
    language.make_faster(quick)
    rows = torch.randint(0, 50, (3, 25), generator=torch.Generator().manual_seed(0))
    losses = [language.mean_loss(model, rows) for model in (plain, quick)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=0)
    for one, other in zip(plain.parameters(), quick.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-5)


def test_a_killed_run_continues_bit_for_bit(corpus, settings, trained, tmp_path, monkeypatch):
    whole, report = trained
    work = copy_of(corpus, tmp_path / "work")
    monkeypatch.setattr(language, "CHECKPOINT_SECONDS", 0)
    update = language.Training.update

    def killed_in_step_four(self, rows):
        if self.step == 4:
            raise KeyboardInterrupt
        return update(self, rows)

    monkeypatch.setattr(language.Training, "update", killed_in_step_four)
    with pytest.raises(KeyboardInterrupt):
        language.run(settings, work)
    assert not (work / "language" / "model").exists()
    with (work / "language" / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 0.0, "seconds": 0.0}\n{"step": 6, "lo')
    monkeypatch.setattr(language.Training, "update", update)
    again = language.run(settings, work)

    first, second = (torch.load(w / "language" / "checkpoint.pt", weights_only=True) for w in (whole, work))
    assert first["step"] == second["step"] == STEPS
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    for key, state in first["optimizer"]["state"].items():
        for name, tensor in state.items():
            assert torch.equal(tensor, second["optimizer"]["state"][key][name])
    logs = [
        [json.loads(line) for line in (w / "language" / "log.jsonl").read_text().splitlines()] for w in (whole, work)
    ]
    assert [entry["loss"] for entry in logs[0]] == [entry["loss"] for entry in logs[1]]
    assert again["loss_last_50_steps"] == report["loss_last_50_steps"]


def test_the_folder_is_a_plain_gptj(trained, settings):
    work, report = trained
    model = GPTJForCausalLM.from_pretrained(work / "language" / "model", dtype=torch.float32)
    made = AutoTokenizer.from_pretrained(work / "language" / "model")
    config = settings.language
    assert (model.config.n_layer, model.config.n_embd, model.config.rotary_dim) == (
        config.n_layers,
        config.d_model,
        config.rotary_dim,
    )
    assert model.lm_head.weight is not model.transformer.wte.weight
    assert model.lm_head.bias is not None
    assert sum(p.numel() for p in model.parameters()) == report["parameters"]
    weights = torch.load(work / "language" / "checkpoint.pt", weights_only=True)["model"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name].half().float())
    prompt = made("A picture of", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert out.shape[1] > prompt["input_ids"].shape[1]


def test_the_model_learns(trained):
    work, _ = trained
    losses = [json.loads(line)["loss"] for line in (work / "language" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.02
    assert losses[0] == pytest.approx(np.log(1024), abs=0.3)


def test_text_figures(trained, settings):
    work, _ = trained
    report = evaluate_text.run(settings, work)
    for name in ("real", "generated"):
        figures = report["perplexity"][name]
        assert figures["5-gram"]["per_token"] < figures["unigram"]["per_token"] < 1024
        per_token, per_byte = figures["model"]["per_token"], figures["model"]["per_byte"]
        assert np.log(per_token) * figures["tokens"] == pytest.approx(np.log(per_byte) * figures["bytes"])
    assert {row["chance"] for row in report["cloze"]["model"].values()} == {0.25}


def test_windows_score_every_token_with_the_context_it_has(trained):
    """In windows of the model's own length, the first window equals one plain forward pass."""
    work, _ = trained
    model = GPTJForCausalLM.from_pretrained(work / "language" / "model", dtype=torch.float32).eval()
    tokens = np.random.default_rng(0).integers(0, 1024, size=200)
    scores = evaluate_text.model_log_probabilities(model, tokens)
    assert len(scores) == 199
    length = model.config.n_positions
    for end in (20, length, length + 5, 199):
        start = max(0, (end - length // 2) // (length // 2)) * (length // 2) if end > length else 0
        context = torch.from_numpy(tokens[start:end])[None]
        direct = model(context).logits[0, -1].log_softmax(-1)[tokens[end]].item()
        assert scores[end - 1] == pytest.approx(direct, abs=1e-4)


def test_endings_in_a_padded_batch_equal_single_passes(trained):
    work, _ = trained
    model = GPTJForCausalLM.from_pretrained(work / "language" / "model", dtype=torch.float32).eval()
    sequences = [([0, 5, 9], [7]), ([0, 8], [3, 4, 11, 2])]
    batch = evaluate_text.endings(model, sequences)
    for score, (context, ending) in zip(batch, sequences, strict=True):
        alone = evaluate_text.model_log_probabilities(model, np.array(context + ending))[-len(ending) :].sum()
        assert score == pytest.approx(alone, abs=1e-4)


def test_the_neutral_sentence_keeps_every_other_word():
    item = {"noun": "hat", "prompt": "agreed that a hat must be called"}
    assert evaluate_text._without_noun(item) == "agreed that a thing must be called"
    item = {"noun": "ant", "prompt": "I want an ant, the ant"}
    assert evaluate_text._without_noun(item) == "I want a thing, the thing"
