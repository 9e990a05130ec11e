import sys

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from lens_multimodal.analysis import BertScore, SentenceCosine, WordOverlap

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "in", "the", "park", "two"]
BEFORE = ["a dog in the park", "two dog", "", "", "a cat"]
AFTER = ["a dog in the park", "a cat in the park", "a dog", "", "a dog"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """The folder of a random BERT over a few words."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=32).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20,
        max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder)
    return folder


def test_word_overlap_by_hand():
    similarity = WordOverlap()
    assert similarity(BEFORE, AFTER).tolist() == pytest.approx([1, 0, 0, 1, 2 / 4])
    pairs = [("A dog, running.", "a DOG running"), ("dog dog", "dog"), ("it's", "it s"), ("a dog", "dog a")]
    assert similarity(*zip(*pairs, strict=True)).tolist() == pytest.approx([1, 2 / 3, 0, 1])


class Encoder:
    """Sentence vectors from a table, as users' own objects give them."""

    def __init__(self, table):
        self.table = table
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        return [self.table[text] for text in texts]


def test_sentence_cosine_of_any_encoder_asks_once_for_each_text():
    encoder = Encoder({"a": [3.0, 4.0], "b": [4.0, -3.0], "c": [-6.0, -8.0]})
    similarity = SentenceCosine(encoder)
    assert similarity(["a", "a", "a"], ["a", "b", "c"]).tolist() == pytest.approx([1, 0, -1], abs=1e-6)
    assert encoder.asked == [["a", "b", "c"]]
    with pytest.raises(FloatingPointError, match=r"\b1 of 1 .*sentence_cosine"):
        SentenceCosine(Encoder({"a": [1.0, 1.0], "b": [float("nan"), 1.0]}))(["a"], ["b"])
    with pytest.raises(ValueError, match=r"\[2\].* 2 texts"):
        SentenceCosine(Encoder({"a": 1.0, "b": 2.0}))(["a"], ["b"])


def test_sentence_cosine_of_a_folder_equals_cosines_of_means_of_plain_transformers(bert):
    pytest.importorskip("sentence_transformers")
    found = SentenceCosine(bert)(BEFORE, AFTER)
    tokenizer, model = BertTokenizer.from_pretrained(bert), BertModel.from_pretrained(bert).eval()

    def vector(text):
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    expected = [torch.cosine_similarity(vector(a), vector(b), dim=0) for a, b in zip(BEFORE, AFTER, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-5)
    assert len(set(found.round(decimals=3).tolist())) > 2


@pytest.mark.parametrize("layer", [None, 1])
def test_bert_score_equals_the_formula_on_plain_transformers(bert, layer):
    pytest.importorskip("torchmetrics")
    found = BertScore(bert, layer=layer)(BEFORE, AFTER)
    tokenizer, model = BertTokenizer.from_pretrained(bert), BertModel.from_pretrained(bert).eval()

    def vectors(text):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        return torch.nn.functional.normalize(states[-1 if layer is None else layer][0], dim=-1)[1:-1]

    for index, (before, after) in enumerate(zip(BEFORE, AFTER, strict=True)):
        if before and after:
            cosines = vectors(after) @ vectors(before).T
            # torchmetrics also lets a word match a special token's zero vector, so nothing counts below zero.
            precision, recall = cosines.amax(1).clamp(min=0).mean(), cosines.amax(0).clamp(min=0).mean()
            expected = 2 * precision * recall / (precision + recall)
            assert found[index].item() == pytest.approx(expected.item(), abs=1e-4), (before, after)
        else:
            assert found[index].item() == float(before == after)
    assert found[0].item() == pytest.approx(1, abs=1e-4)
    assert found[1].item() < 0.99


@pytest.mark.parametrize("measure", [SentenceCosine, BertScore])
def test_a_name_is_never_looked_up_on_a_hub(measure):
    with pytest.raises(FileNotFoundError, match=r"'bert-base-uncased'"):
        measure("bert-base-uncased")


@pytest.mark.parametrize(
    ("measure", "package", "module"),
    [
        (SentenceCosine, "sentence-transformers", "sentence_transformers"),
        (BertScore, "torchmetrics", "torchmetrics.functional.text.bert"),
    ],
)
def test_a_missing_package_is_named(measure, package, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        measure(tmp_path)


def test_an_object_that_encodes_nothing_is_refused():
    with pytest.raises(TypeError, match=r"encode\(texts\).* int\b"):
        SentenceCosine(3)
