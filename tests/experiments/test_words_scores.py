"""BERTScore and CLIPScore with small random models made on the spot."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from lens_multimodal.experiments.shared.once import Once
from lens_multimodal.experiments.shared.pretrained_scores import bert_score, clip_score

CAPTIONS = ("a dog near a cat", "a dog")


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "near", "table"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=512,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz")]
    vocab = {piece: i for i, piece in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    pictures = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(image_processor=pictures, tokenizer=tokenizer).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": vocab["<|startoftext|>"], "eos_token_id": vocab["<|endoftext|>"]}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(vocab), "max_position_embeddings": 77},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return str(folder)


def test_bertscore_takes_the_best_reference_and_is_one_for_the_same_words(bert):
    pytest.importorskip("torchmetrics")
    once = Once()
    assert bert_score("a dog", CAPTIONS, bert, once=once) == pytest.approx(1.0, abs=1e-4)
    assert bert_score("table", CAPTIONS, bert, once=once) < 1.0
    assert list(once.made) == ["bertscore"]


def test_clipscore_is_the_cosine_of_the_models_own_embeddings(clip):
    from transformers import CLIPModel, CLIPProcessor

    once, red = Once(), Image.new("RGB", (20, 30), "red")
    score = clip_score("a dog", red, clip, once=once)
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    with torch.no_grad():
        found = model(**processor(text=["a dog"], images=[red], return_tensors="pt"))
    # logits_per_image = cosine * exp(logit_scale)
    expected = 100 * float((found.logits_per_image[0, 0] / model.logit_scale.exp()).detach())
    assert score == pytest.approx(max(0.0, expected), abs=1e-3)
    assert clip_score("a dog", red, clip, once=once) == score
    assert len(once.made) == 1
    assert clip_score("a long text " * 60, red, clip, once=once) is not None


def test_without_a_model_there_is_no_score():
    assert bert_score("a dog", CAPTIONS, None, once=Once()) is None
    assert clip_score("a dog", Image.new("RGB", (4, 4)), None, once=Once()) is None


@pytest.mark.parametrize("score", [bert_score, clip_score])
def test_a_missing_folder_is_named(score):
    pytest.importorskip("torchmetrics")
    given = CAPTIONS if score is bert_score else Image.new("RGB", (4, 4))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        score("a dog", given, str(Path("nowhere")), once=Once())
