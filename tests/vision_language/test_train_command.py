"""The command `train` on the folder of a vision-language model, against Hugging Face's own loss from pixels."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoProcessor

from lens_multimodal import attach_vision
from lens_multimodal.cli import main
from lens_multimodal.prompt.vision_parts import parts_before
from tests.cli.conftest import Ended
from tests.vision_language.conftest import Pair, noise
from tests.vision_language.models import build
from tests.vision_language.test_data_sets import losses_on_pixels

pytestmark = pytest.mark.newest

CAPTIONS = (": the red sun", ": a dog")
"""Blanks before a caption in a file are left out, so these begin with a colon."""

SETTINGS = {"batch_size": 2, "learning_rate": 2e-3, "dropout": 0.0, "prompt": " what is"}


@pytest.fixture
def run(capsys):
    def run_command(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Ended(ended.value.code or 0, captured.out, captured.err)

    return run_command


@pytest.fixture
def data(tmp_path):
    """Two captioned pictures of unequal size, and settings."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, caption in enumerate(CAPTIONS):
        noise(number, width=96 - 30 * number, height=60 + 30 * number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    (tmp_path / "settings.json").write_text(json.dumps(SETTINGS))
    return folder


def saved(family, tmp_path):
    """A model's folder, the same model, and the processor of the folder, in the backend that it is loaded in."""
    model, processor = build(family, tmp_path / "built")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model", model, AutoProcessor.from_pretrained(tmp_path / "model")


def loss_of(family, plain, processor, lens):
    """The mean over the tokens of both captions, from pixels."""
    pair = Pair(family=family, plain=plain, processor=processor, lens=lens)
    pictures = [noise(n, width=96 - 30 * n, height=60 + 30 * n) for n in range(2)]
    n_tokens = sum(len(lens.text.encode(caption)) + 1 for caption in CAPTIONS)
    with torch.no_grad():
        return float(sum(losses_on_pixels(pair, plain, CAPTIONS, pictures)) / n_tokens)


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("family", ["llava", "llava-next", "smolvlm"])
def test_training_starts_at_the_loss_of_the_models_own_projector(family, run, data, tmp_path):
    folder, plain, processor = saved(family, tmp_path)
    command = ("train", data, "--out", tmp_path / "run", "--model", folder, "--steps", 4,
               "--settings", tmp_path / "settings.json", "--workers", 1)  # fmt: skip
    ended = run(*command)
    assert ended.code == 0, ended.err
    lens = attach_vision(build(family, tmp_path / "twin")[0], processor=processor)
    found = losses(tmp_path / "run")
    assert found[0] == pytest.approx(loss_of(family, plain, processor, lens), rel=1e-4)
    assert found[-1] < found[0]
    trained = load_file(tmp_path / "run" / "projection.safetensors")
    own = lens.images.projector.state_dict()
    assert trained.keys() == own.keys()
    assert all((trained[name] - own[name]).abs().max() > 1e-4 for name in own)
    list(parts_before(plain).values())[-1].load_state_dict(trained)
    assert loss_of(family, plain, processor, lens) < found[0], "what was written, in the plain model"

    before = (tmp_path / "run" / "projection.safetensors").read_bytes()
    again = run(*command)
    assert again.code == 0
    assert (tmp_path / "run" / "projection.safetensors").read_bytes() == before, "nothing was left to do"


def test_a_fresh_start_draws_the_projector_anew(run, data, tmp_path):
    folder, plain, processor = saved("llava", tmp_path)
    ended = run("train", data, "--out", tmp_path / "run", "--model", folder, "--steps", 1, "--seed", 3, "--fresh",
                "--settings", tmp_path / "settings.json", "--workers", 1)  # fmt: skip
    assert ended.code == 0, ended.err
    lens = attach_vision(build("llava", tmp_path / "twin")[0], processor=processor)
    (first,) = losses(tmp_path / "run")
    assert first != pytest.approx(loss_of("llava", plain, processor, lens), rel=1e-3)
    projector = plain.model.multi_modal_projector
    torch.manual_seed(3)
    for layer in (projector.linear_1, projector.linear_2):
        layer.reset_parameters()
    assert first == pytest.approx(loss_of("llava", plain, processor, lens), rel=1e-4)


@pytest.mark.parametrize(
    ("family", "named"), [("gemma-3", "Gemma3MultiModalProjector"), ("qwen2.5-vl", "Qwen2_5_VL"), ("mistral3", "Norm")]
)
def test_a_fresh_start_that_cannot_be_made_is_refused_before_anything_is_written(family, named, run, data, tmp_path):
    folder, *_ = saved(family, tmp_path)
    ended = run("train", data, "--out", tmp_path / "run", "--model", folder, "--steps", 1, "--fresh")
    assert ended.code == 1
    assert named in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert not (tmp_path / "run").exists()
