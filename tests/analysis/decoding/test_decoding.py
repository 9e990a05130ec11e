import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from lens_multimodal import ablate, edit_knowledge, transformer
from lens_multimodal.analysis import (
    decode_layers,
    decode_neurons,
    driving_tokens,
    nearest_embeddings,
    neuron_directions,
    token_strings,
    unembed_tokens,
    upstream_neurons,
)
from lens_multimodal.analysis.decoding.vocabulary_search import chunk_sizes, search_vocabulary
from tests.analysis.reference import PROMPT, each_case, final_norm_of, model_of, neuron_readers, plain
from tests.models import MODEL_CLASSES, random_language_model, wrapped_model
from tests.tokenizers import word_tokenizer


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    return wrapped_model("bridge", plain("gpt-j"), word_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def best(values, k=10):
    return values.sort(descending=True).indices[:k].tolist()


@each_case
def test_neurons_equal_an_explicit_loop(layout, kind):
    model = model_of(layout, kind)
    table = decode_neurons(model, [(2, 7), (0, 39), (0, 1)], top_k=5)
    assert table[["layer", "neuron"]].values.tolist() == [[0, 39], [0, 1], [2, 7]]
    for row in table.itertuples():
        written = transformer.w_out(model, row.layer)[row.neuron]
        values = torch.stack([written @ transformer.w_u(model)[:, token] for token in range(97)])
        assert list(row.token_ids) == best(values, 5)
        torch.testing.assert_close(torch.tensor(row.weights).double(), values.sort(descending=True).values[:5])
    assert table.attrs == {"final_norm": False, "weight_processing": "none"}


@each_case
def test_final_norm_is_what_the_norm_does_to_the_row(layout, kind):
    """Adding a row to a large constant residual stream changes the normed stream by a multiple of this."""
    model = model_of(layout, kind)
    table = decode_neurons(model, [(1, 4)], final_norm=True)
    row = transformer.w_out(model, 1)[4]
    if layout != "llama":
        row = row - row.mean()
    values = (row * final_norm_of(plain(layout)).weight) @ transformer.w_u(model)
    assert list(table["token_ids"][0]) == best(values)
    assert list(table["token_ids"][0]) != list(decode_neurons(model, [(1, 4)])["token_ids"][0])


@pytest.mark.skipif("hooked" not in MODEL_CLASSES, reason="folding at loading is HookedTransformer's")
def test_final_norm_equals_decoding_a_folded_model():
    from lens_multimodal.transformer.hooked_transformer import hooked_gpt_j

    language_model = random_language_model("gpt-j")
    raw, folded = hooked_gpt_j(language_model), hooked_gpt_j(language_model, process_weights=True)
    neurons = [(layer, neuron) for layer in range(3) for neuron in range(40)]
    with_norm = decode_neurons(raw, neurons, final_norm=True)
    assert with_norm["token_ids"].tolist() == decode_neurons(folded, neurons)["token_ids"].tolist()
    assert decode_neurons(folded, neurons).attrs["weight_processing"] != "none"


@pytest.mark.parametrize("budget", [1, 2_000, 20_000, 2**30])
@pytest.mark.parametrize("probabilities", [False, True])
def test_budget_changes_nothing(budget, probabilities):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(33, 24, generator=generator)
    table = torch.randn(24, 97, generator=generator)
    found = search_vocabulary(
        vectors,
        lambda a, b: table[:, a:b],
        97,
        top_k=6,
        probabilities=probabilities,
        budget_bytes=budget,
    )
    products = vectors @ table
    expected = (products.softmax(-1) if probabilities else products).topk(6)
    assert torch.equal(found.tokens, expected.indices)
    torch.testing.assert_close(found.values, expected.values)


def test_budget_is_held_for_gpt_j():
    d_model, d_vocab, budget = 4096, 50_400, 2**30
    n_rows, n_columns = chunk_sizes(d_model, d_vocab, top_k=10, budget_bytes=budget)
    assert 4 * (d_model * n_columns + n_rows * (2 * n_columns + d_model)) <= budget
    assert n_rows > 1000


@each_case
def test_layers_equal_neurons(layout, kind):
    model = model_of(layout, kind)
    for layer, found in decode_layers(model, [2, 0], top_k=3, probabilities=True):
        expected = (transformer.w_out(model, layer) @ transformer.w_u(model)).softmax(-1).topk(3)
        assert torch.equal(found.tokens, expected.indices)
        torch.testing.assert_close(found.values, expected.values)


@each_case
def test_nearest_embeddings_equal_cosine_similarity(layout, kind):
    model = model_of(layout, kind)
    vectors = torch.randn(4, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = nearest_embeddings(model, vectors, top_k=7, budget_bytes=3000)
    expected = torch.nn.functional.cosine_similarity(vectors[:, None], transformer.w_e(model)[None], dim=-1).topk(7)
    assert torch.equal(found.tokens, expected.indices)
    torch.testing.assert_close(found.values, expected.values)


def test_an_embedding_is_nearest_to_itself():
    model = model_of("gpt-2", "bridge")
    found = nearest_embeddings(model, 5 * transformer.w_e(model)[[3, 90]], top_k=1)
    assert found.tokens.tolist() == [[3], [90]]
    torch.testing.assert_close(found.values, torch.ones(2, 1, dtype=torch.float64))


@each_case
def test_unembedding_the_last_residual_stream_gives_the_prediction(layout, kind):
    model = model_of(layout, kind)
    with torch.no_grad(), transformer.capture(model, [transformer.resid_post(2)]) as kept:
        logits = transformer.logits_of(model, PROMPT)[0]
    found = unembed_tokens(model, kept[transformer.resid_post(2)][0], top_k=4, chunk=3)
    expected = logits.softmax(-1).topk(4)
    assert torch.equal(found.tokens, expected.indices)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-7)


@each_case
def test_driving_tokens_raise_the_first_layers_neuron(layout, kind):
    """Through the norm, the weight is the neuron's pre-activation on that token alone, less its bias."""
    model = model_of(layout, kind)
    table = driving_tokens(model, [(1, 7), (1, 20)], top_k=4, budget_bytes=3000)
    block = model.blocks[1]
    norm = block.ln2 if hasattr(block, "ln2") else block.ln1
    with torch.no_grad():
        normed = norm(transformer.w_e(model)[None])[0]
    for row in table.itertuples():
        values = normed @ transformer.w_in(model, 1)[:, row.neuron]
        assert list(row.token_ids) == best(values, 4)
        torch.testing.assert_close(torch.tensor(row.weights).double(), values.sort(descending=True).values[:4])
    bare = driving_tokens(model, [(1, 7)], top_k=4, norm=False)
    assert list(bare["token_ids"][0]) == best(transformer.w_e(model) @ transformer.w_in(model, 1)[:, 7], 4)


def test_gate_only_where_there_is_one():
    model = model_of("llama", "bridge")
    table = driving_tokens(model, [(0, 3)], norm=False, gate=True)
    gate = plain("llama").model.layers[0].mlp.gate_proj.weight[3]
    assert list(table["token_ids"][0]) == best(transformer.w_e(model) @ gate)
    with pytest.raises(ValueError, match="no gate"):
        driving_tokens(model_of("gpt-j", "bridge"), [(0, 3)], gate=True)


def test_upstream_neurons_equal_cosine_similarity():
    model = model_of("gpt-j", "bridge")
    table = upstream_neurons(model, 2, 5, top_k=6)
    column = plain("gpt-j").transformer.h[2].ln_1.weight * transformer.w_in(model, 2)[:, 5]
    column = column - column.mean()
    rows = torch.cat([transformer.w_out(model, 0), transformer.w_out(model, 1)])
    cosine = torch.nn.functional.cosine_similarity(rows, column[None], dim=-1)
    order = best(cosine.abs(), 6)
    assert (table["layer"] * 40 + table["neuron"]).tolist() == order
    torch.testing.assert_close(torch.tensor(table["cosine"].to_numpy()), cosine[order])
    assert len(upstream_neurons(model, 0, 5)) == 0


def test_tokens_are_text(speaking):
    ids = speaking.tokenizer.convert_tokens_to_ids(["Ġdog", "a", "Ġ"])
    assert token_strings(speaking, ids) == [" dog", "a", " "]
    assert token_strings(model_of("gpt-j", "bridge"), [5]) == ["<5>"]
    table = decode_neurons(speaking, [(0, 1)], top_k=3)
    assert table["tokens"][0] == tuple(token_strings(speaking, table["token_ids"][0]))


def test_texts_follow_a_tokenizer_that_learns_new_tokens(tmp_path):
    model = wrapped_model("bridge", plain("gpt-j"), word_tokenizer(tmp_path))
    new = len(model.tokenizer)
    assert token_strings(model, [new, 0]) == [f"<{new}>", token_strings(model, [0])[0]]
    model.tokenizer.add_tokens(["heron"])
    assert token_strings(model, [new]) == ["heron"]


def test_interpretable_neuron_is_found(speaking):
    """A neuron whose output row the unembedding reads as words is interpretable; another is not."""
    model = wrapped_model("bridge", plain("gpt-j"), speaking.tokenizer)
    words = ["dog", "cat", "sun", "tree", "red", "boat", "fish", "sea", "hat", "big"]
    ids = model.tokenizer.convert_tokens_to_ids([f"Ġ{word}" for word in words])
    with torch.no_grad():
        row = transformer.w_out(model, 1)[0]
        opposed = int((transformer.w_out(model, 1) @ row).argmin())
        transformer.w_u(model)[:, ids] = 9 * row[:, None] * torch.linspace(2, 1, 10, dtype=torch.float64)
    table = decode_neurons(model, [(1, 0), (1, opposed)])
    assert table["tokens"][0] == tuple(f" {word}" for word in words)
    assert table["interpretable"].tolist() == [True, False]


@pytest.mark.parametrize("top_k", [0, 98, True])
def test_bad_top_k(top_k):
    with pytest.raises(ValueError, match=rf"top_k.* 97 .* {top_k}$"):
        list(decode_layers(model_of("gpt-j", "bridge"), top_k=top_k))


def test_bad_vectors():
    model = model_of("gpt-j", "bridge")
    for function in (nearest_embeddings, unembed_tokens):
        with pytest.raises(ValueError, match=r"\(vectors=.*d_model=24"):
            function(model, torch.randn(2, 23))
        with pytest.raises(FloatingPointError, match="infinities or NaN"):
            function(model, torch.full((2, 24), torch.inf))


@pytest.mark.parametrize("neurons", [[], [(0, 40)], [(1, 1), (1, 1)]])
def test_bad_neurons(neurons):
    for function in (decode_neurons, driving_tokens):
        with pytest.raises(ValueError, match="neuron"):
            function(model_of("gpt-j", "bridge"), neurons)


@each_case
def test_neuron_directions_are_rows_in_the_order_given(layout, kind):
    model = model_of(layout, kind)
    found = neuron_directions(model, [(2, 5), (0, 1), (2, 3)])
    expected = [neuron_readers(plain(layout))[layer] for layer in (2, 0, 2)]
    for row, reader, neuron in zip(found, expected, (5, 1, 3), strict=True):
        one = torch.nn.functional.one_hot(torch.tensor(neuron), 40).double()
        with torch.no_grad():
            torch.testing.assert_close(row, reader(one[None])[0] - reader(torch.zeros_like(one)[None])[0])


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
def test_a_norm_behind_the_mlp_shapes_what_is_written():
    """Gemma 3: the residual stream moves along the direction when a neuron is switched off, the norm's scale held."""
    model = small_gemma_3()
    tokens, layer, neuron = torch.tensor([[5, 9, 2, 7]]), 1, 11
    scale = "blocks.1.ln2_post.hook_scale"
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
        held = [(scale, lambda _, hook: cache[scale])]
        hooks = [*held, *ablate(model, [(layer, neuron)])]
        moved = {}
        for name, added in (("with", held), ("without", hooks)):
            with model.hooks(fwd_hooks=added), transformer.capture(model, [transformer.resid_post(layer)]) as kept:
                model(tokens)
            moved[name] = kept[transformer.resid_post(layer)][0, -1]
    factor = cache[transformer.mlp_post(layer)][0, -1, neuron] / cache[scale][0, -1]
    direction = neuron_directions(model, [(layer, neuron)])[0]
    torch.testing.assert_close(moved["with"] - moved["without"], factor * direction, rtol=1e-3, atol=1e-5)
    assert (direction - transformer.w_out(model, layer)[neuron]).abs().max() > 0.1
    unembedded = (direction @ transformer.w_u(model)).topk(10).indices.tolist()
    assert list(decode_neurons(model, [(layer, neuron)])["token_ids"][0]) == unembedded


def test_knowledge_edit_moves_what_is_written_behind_a_norm():
    model = small_gemma_3()
    before = neuron_directions(model, [(1, 11)])[0]
    with edit_knowledge(model, [(1, 11)], source=3, target=8, strength=0.7):
        after = neuron_directions(model, [(1, 11)])[0]
    difference = transformer.w_u(model)[:, 8] - transformer.w_u(model)[:, 3]
    expected = before + 0.7 * before.norm() * difference / difference.norm()
    torch.testing.assert_close(after, expected.detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(neuron_directions(model, [(1, 11)])[0], before)


def small_gemma_3():
    config = Gemma3TextConfig(
        vocab_size=97, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=12, max_position_embeddings=64, bos_token_id=1, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    language_model = Gemma3ForCausalLM(config)
    with torch.no_grad():
        for parameter in language_model.parameters():
            spread = 0.8 if parameter.ndim == 1 else 0.3
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return transformer.wrap(language_model)
