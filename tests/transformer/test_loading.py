"""Loading from local folders: the right numbers, and no more host memory than a shard and the model."""

import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPTJConfig, GPTJForCausalLM

from lens_multimodal import attach_vision, transformer
from lens_multimodal.transformer.loading import load_causal_lm, load_hooked_gpt_j, load_language_model, place
from tests.lenses import encoder, hugging_face, linear, picture
from tests.models import MODEL_CLASSES, random_language_model
from tests.tokenizers import make_tokenizer

FORMATS = ["safetensors", "sharded safetensors", "pytorch_model.bin", "sharded bin", "old bin"]


def save(model: GPTJForCausalLM, folder: Path, form: str, *, shard: str = "20KB") -> None:
    """Every format that a folder of weights comes in; the shards of `.bin` are those of safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    if form.endswith("safetensors"):
        model.save_pretrained(folder, max_shard_size=shard if form.startswith("sharded") else "5GB")
        return
    model.config.save_pretrained(folder)
    state = model.state_dict()
    if form == "sharded bin":
        names = list(state)
        shards = {f"pytorch_model-{i + 1:05}-of-00004.bin": names[i::4] for i in range(4)}
        for file, own in shards.items():
            torch.save({name: state[name] for name in own}, folder / file)
        index = {"metadata": {}, "weight_map": {name: file for file, own in shards.items() for name in own}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form != "old bin")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_same_model_from_every_format(form, dtype, tmp_path):
    plain = random_language_model("gpt-j")
    save(plain, tmp_path, form)
    n_files = len([p for p in tmp_path.iterdir() if p.suffix in (".bin", ".safetensors")])
    assert (n_files > 1) == form.startswith("sharded")
    model, info = load_causal_lm(tmp_path, dtype=dtype)
    assert not info["missing_keys"]
    expected = dtype or torch.float32
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.to(expected)), name
    assert not any(p.requires_grad for p in model.parameters())
    tokens = torch.arange(3, 20)[None]
    torch.testing.assert_close(model(tokens).logits, plain.to(expected)(tokens).logits)


@pytest.mark.parametrize("form", ["sharded safetensors", "pytorch_model.bin"])
def test_a_wrong_precision_in_the_config(form, tmp_path):
    """`config.json` says float32, the file is float16, as in GPT-J's own repository: the file counts."""
    save(random_language_model("gpt-j", dtype=torch.float16), tmp_path, form)
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**described, "dtype": "float32"}))
    model, _ = load_causal_lm(tmp_path)
    assert {p.dtype for p in model.parameters()} == {torch.float16}


def test_the_old_file_of_gpt_j_holds_masks_too(tmp_path):
    """Files from 2021 hold each layer's causal mask, which no model loads any more."""
    plain = random_language_model("gpt-j")
    save(plain, tmp_path, "pytorch_model.bin")
    state = plain.state_dict()
    for layer in range(3):
        state[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
        state[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e9)
    torch.save(state, tmp_path / "pytorch_model.bin")
    make_tokenizer(tmp_path)
    model, _ = load_language_model(tmp_path)
    tokens = torch.arange(3, 20)[None]
    torch.testing.assert_close(model(tokens).logits, plain(tokens).logits)


def test_a_file_that_wants_to_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    random_language_model("gpt-j").config.save_pretrained(tmp_path)
    make_tokenizer(tmp_path)
    torch.save({"transformer.wte.weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=rf"language model '{re.escape(str(tmp_path))}'"):
        load_language_model(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_tied_weights_and_integers_survive_placing():
    model = random_language_model("gpt-2")
    assert model.lm_head.weight is model.transformer.wte.weight
    model.register_buffer("counts", torch.arange(3))
    place(model, device="cpu", dtype=torch.bfloat16)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert model.counts.dtype == torch.int64


@pytest.mark.skipif("hooked" not in MODEL_CLASSES, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize("form", ["sharded safetensors", "pytorch_model.bin"])
def test_as_a_hooked_transformer(form, tmp_path, capfd):
    plain = random_language_model("gpt-j")
    save(plain, tmp_path, form)
    make_tokenizer(tmp_path)
    model = load_hooked_gpt_j(tmp_path)
    assert capfd.readouterr().out == ""
    tokens = torch.arange(3, 40)[None]
    torch.testing.assert_close(
        transformer.logits_of(model, tokens), hugging_face("gpt-j")(tokens).logits, rtol=1e-5, atol=1e-4
    )
    assert transformer.weight_processing(model) == "none"
    assert isinstance(attach_vision(model, vision=encoder(), projection=linear()).caption(picture()), str)
    half = load_hooked_gpt_j(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


@pytest.mark.skipif("hooked" in MODEL_CLASSES, reason="TransformerLens 3 has it")
def test_no_hooked_transformer_in_transformer_lens_4(tmp_path):
    with pytest.raises(RuntimeError, match=r"HookedTransformer.* 4\.0"):
        load_hooked_gpt_j(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's memory from /proc")
def test_peak_host_memory(tmp_path):
    """At most 1.2 times one shard and the model, for every format, converted or not, in every class.

    Besides, the check of a few logits needs the largest matrix in float32 where a processor has no bfloat16 arithmetic.
    """
    for name, model in (("big", GPTJForCausalLM(big())), ("small", random_language_model("gpt-j"))):
        for form in FORMATS:
            save(model, tmp_path / name / form, form, shard="8MB")
            make_tokenizer(tmp_path / name / form)
    done = subprocess.run(
        [sys.executable, "-m", "tests.transformer.test_loading", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    cases = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(cases) == len(CASES)
    largest_matrix = 4 * big().vocab_size * big().n_embd
    for case in cases:
        checking = largest_matrix if "bfloat16" in case["case"] else 0
        assert case["peak"] <= 1.2 * (case["shard"] + case["model"]) + checking, case
        assert case["peak"] >= 0.9 * case["model"], case
        assert case["finite"], case


CASES = [
    *(("bridge", form, torch.float32) for form in FORMATS),
    *(("bridge", form, torch.bfloat16) for form in ("sharded safetensors", "old bin")),
]
if "hooked" in MODEL_CLASSES:
    CASES += [("hooked", "safetensors", torch.float32), ("hooked", "sharded bin", torch.bfloat16)]


def big() -> GPTJConfig:
    return GPTJConfig(
        vocab_size=4000, n_positions=64, n_embd=384, n_layer=10, n_head=4, rotary_dim=16, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip


def main() -> None:
    """Each case in a process of its own, forked once everything is imported.

    A forked process maps the program again: torch's own libraries alone come to 25 MB by the time a model is loaded. A
    small model goes first, so that this is there before measuring begins.
    """
    home = Path(sys.argv[1])
    for kind, form, dtype in CASES:
        sys.stdout.flush()
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
        else:
            measured(kind, home / "small" / form, dtype)
            sys.stdout.write(json.dumps(measured(kind, home / "big" / form, dtype)) + "\n")
            sys.stdout.flush()
            os._exit(0)


def load_as(kind: str, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    if kind == "hooked":
        return load_hooked_gpt_j(folder, dtype=dtype)
    model, tokenizer = load_language_model(folder, dtype=dtype)
    return transformer.wrap(model, tokenizer=tokenizer)


def measured(kind: str, folder: Path, dtype: torch.dtype) -> dict[str, object]:
    from benchmarks.peak_memory import peak, reset_peak

    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or the model would go unseen into memory that was kept
    before = reset_peak("cpu")
    model = load_as(kind, folder, dtype)
    read = sum(float(p.detach().float().sum()) for p in model.parameters())  # what is only mapped counts when read
    weights = {p.data_ptr(): p.nbytes for p in model.parameters()}
    shard = max(p.stat().st_size for p in folder.iterdir() if p.suffix in (".bin", ".safetensors"))
    return {
        "case": f"{kind}, {folder.name}, {dtype}",
        "peak": peak("cpu") - before,
        "model": sum(weights.values()),
        "shard": shard,
        "finite": read == read,
    }


if __name__ == "__main__":
    main()
