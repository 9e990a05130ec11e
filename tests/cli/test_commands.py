"""Every command against the library's own answer."""

import json
import os
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lens_multimodal import ablate, transformer
from lens_multimodal.analysis import effect_of
from lens_multimodal.tiny import scenes_folder

AFTER = ["--text", "A picture of a"]


def test_captions_of_a_folder_are_those_of_the_lens(run, lens, pictures, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for picture in pictures[:3]:
        (folder / picture.name).write_bytes(picture.read_bytes())
    (folder / "notes.txt").write_text("not a picture")
    ended = run("caption", folder, "--format", "json")
    rows = json.loads(ended.out)
    assert ended.code == 0
    assert [row["picture"] for row in rows] == [str(folder / picture.name) for picture in pictures[:3]]
    assert [row["caption"] for row in rows] == lens.caption(pictures[:3])


def test_captions_of_pictures_whose_names_are_no_utf8(run, lens, pictures, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    odd.write_bytes(pictures[0].read_bytes())
    (tmp_path / "sound.jpg").write_bytes(pictures[1].read_bytes())
    ended = run("caption", tmp_path, "--format", "json")
    assert ended.code == 0
    names = [f"{tmp_path}/caf\\xe9.jpg", f"{tmp_path}/sound.jpg"]
    captions = lens.caption(pictures[:2])
    assert json.loads(ended.out) == [{"picture": n, "caption": c} for n, c in zip(names, captions, strict=True)]


def test_pages_show_pictures_whose_names_are_no_utf8(run, pictures, tmp_path):
    odd, page = tmp_path / os.fsdecode(b"caf\xe9.jpg"), tmp_path / os.fsdecode(b"page\xe9.html")
    odd.write_bytes(pictures[0].read_bytes())
    assert run("neurons", odd, "--word", "a", "--top-k", 3, "--out", page).code == 0
    assert r"caf\xe9.jpg" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command",
    [
        ("activations", "--at", "blocks.1.mlp.hook_post"),
        ("atlas",),
        ("reproduce",),
        ("train", scenes_folder()),
    ],
)
def test_folders_that_the_writing_libraries_cannot_open_are_refused_at_once(run, command, tmp_path):
    folder = tmp_path / os.fsdecode(b"out\xe9")
    ended = run(*command, "--out", folder)
    assert ended.code == 1
    assert r"out\xe9" in ended.err
    assert not folder.exists()


def test_caption_takes_patterns_text_and_length(run, lens, pictures):
    pattern = pictures[0].parent / "*_0000.*"
    ended = run("caption", pattern, pictures[0], "--text", "I see", "--max-new-tokens", 3, "--format", "json")
    rows = json.loads(ended.out)
    matches = sorted(pictures[0].parent.glob("*_0000.*"))
    assert [row["picture"] for row in rows] == [str(path) for path in matches], "a picture named twice comes once"
    expected = [lens.caption(path, "I see", max_new_tokens=3) for path in matches]
    assert [row["caption"] for row in rows] == expected


def test_neurons_are_those_of_the_lens(run, lens, said, tmp_path):
    out = tmp_path / "found.parquet"
    ended = run("neurons", said.picture, "--word", said.word, "--top-k", 7, "--out", out)
    assert (ended.code, ended.out) == (0, "")
    assert str(out) in ended.err
    found, expected = pd.read_parquet(out), lens.neurons(said.picture, f" {said.word}", top_k=7)
    assert list(found["picture"].unique()) == [str(said.picture)]
    assert found["neuron"].tolist() == expected["neuron"].tolist()
    assert found["attribution"].to_numpy() == pytest.approx(expected["attribution"].to_numpy(), rel=1e-5)
    assert [list(tokens) for tokens in found["tokens"]] == [list(tokens) for tokens in expected["tokens"]]


def test_a_picture_unlike_the_trios_scenes_is_warned_of(run, said, tmp_path):
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(noise)
    warned = run("caption", noise, said.picture).err
    assert str(noise) in warned
    assert str(said.picture) not in warned
    assert str(noise) in run("neurons", noise, "--word", said.word, "--text", "A picture of a", "--top-k", 1).err
    assert "warning" not in run("neurons", said.picture, "--word", said.word, "--top-k", 1).err


def test_neurons_behind_a_word_that_the_caption_does_not_say(run, lens, pictures):
    how = ["--score", "activation_x_decoded", "--reduce", "sum"]
    ended = run("neurons", pictures[0], pictures[1], "-w", "dog", *AFTER, "--top-k", 2, *how, "-f", "json")
    rows = pd.DataFrame(json.loads(ended.out))
    assert rows["picture"].tolist() == [str(p) for p in pictures[:2] for _ in range(2)]
    expected = lens.neurons(
        lens.prompt(pictures[1], AFTER[1]), " dog", top_k=2, score="activation_x_decoded", reduce="sum"
    )
    assert rows["neuron"].tolist()[2:] == expected["neuron"].tolist()


def test_decode_neurons_by_name_and_from_a_table(run, lens, tmp_path):
    by_name = json.loads(run("decode", "3.120", "0.5", "--top-k", 4, "-f", "json").out)
    rows = [(row["layer"], row["neuron"]) for row in by_name]
    assert rows == [(0, 5), (3, 120)]
    weights = transformer.w_out(lens.model, 3)[120] @ transformer.w_u(lens.model)
    assert by_name[1]["token_ids"] == weights.topk(4).indices.tolist()
    table = tmp_path / "neurons.csv"
    table.write_text("neuron,layer,note\n120,3,x\n5,0,y\n5,0,again\n")
    assert json.loads(run("decode", "--neurons-from", table, "--top-k", 4, "-f", "json").out) == by_name


def test_decode_a_picture(run, lens, pictures):
    rows = json.loads(run("decode", "--picture", pictures[0], "--top-k", 1, "-f", "json").out)
    (image,) = lens.embed([pictures[0]])
    cosines = torch.cosine_similarity(image.soft_prompt.vectors[:, None], transformer.w_e(lens.model)[None], dim=-1)
    assert [(row["row"], row["col"]) for row in rows] == [image.cell(i) for i in range(len(image))]
    assert [row["cosines"][0] for row in rows] == pytest.approx(cosines.max(dim=1).values.tolist(), abs=1e-5)


def test_ablate_against_plain_pytorch(run, lens, said):
    ended = run("ablate", said.picture, "-w", said.word, "-n", "0.5,2.7", "--random-draws", 2, "-f", "json")
    rows = json.loads(ended.out)
    assert [(row["neurons"], row["count"]) for row in rows] == [("chosen", 2), ("random", 2), ("random", 2)]
    prompt = lens.prompt_before(said.picture, f" {said.word}")
    expected = []
    for ablated in ({}, {0: 5, 2: 7}):
        handles = [
            _zero_before_output(lens.model.original_model.transformer.h[layer].mlp, neuron, prompt.image_pos[0])
            for layer, neuron in ablated.items()
        ]
        with torch.no_grad():
            logits = lens.model.original_model(prompt.tokens).logits[0, -1]
        expected.append(float(logits.softmax(-1)[lens.text.token_id(f" {said.word}")]))
        for handle in handles:
            handle.remove()
    measured = [rows[0]["probability_before"], rows[0]["probability_after"]]
    assert measured == pytest.approx(expected, rel=1e-4)
    assert run("ablate", said.picture, "-w", said.word, "-n", "0.5,2.7", "--random-draws", 2, "-f", "json") == ended


def test_ablate_the_top_of_the_ranking(run, said):
    rows = json.loads(run("ablate", said.picture, "-w", said.word, *["--top", 3, "--top", 1], "--random-draws", 1,
                          "-f", "json").out)  # fmt: skip
    assert [row["count"] for row in rows] == [1, 1, 3, 3]


def test_patch_sweeps_over_positions_and_heads(run, lens, pictures, tmp_path):
    out = tmp_path / "sweep.json"
    assert run("patch", pictures[0], pictures[1], "-w", "dog", *AFTER, "--layers", "0,5", "-o", out).code == 0
    rows = pd.read_json(out)
    n_pos = lens.prompt(pictures[0], AFTER[1]).tokens.shape[1]
    assert len(rows) == 2 * n_pos
    assert rows["token"].iloc[0] == "<image:0,0>"
    assert rows["token"].iloc[-1] == " a"
    last = rows[(rows["layer"] == 5) & (rows["pos"] == n_pos - 1)]
    assert float(last["recovered"].iloc[0]) != 0
    heads = json.loads(run("patch", pictures[0], pictures[1], "-w", "dog", *AFTER, "--site", "heads", "--layers", 3,
                           "-f", "json").out)  # fmt: skip
    assert [row["head"] for row in heads] == list(range(lens.shape.n_heads))


def test_patch_as_a_page_and_layers_as_ranges(run, lens, pictures, tmp_path):
    out = tmp_path / "sweep.html"
    ended = run("patch", pictures[0], pictures[1], "-w", "dog", *AFTER, "--layers", "0,3-4", "-o", out)
    assert ended.code == 0
    page = out.read_text()
    n_pos = lens.prompt(pictures[0], AFTER[1]).tokens.shape[1]
    assert page.count("data:image/jpeg;base64,") == 2, "both pictures"
    assert "plotly" in page
    assert "<details>" in page
    assert page.split("<tbody>")[1].count("<tr>") == 3 * n_pos


@pytest.mark.parametrize("positions", ["image", "last"])
def test_neurons_at_named_positions_and_their_page(run, lens, said, tmp_path, positions):
    options = ["-w", said.word, "--top-k", 4, "--positions", positions]
    rows = json.loads(run("neurons", said.picture, *options, "-f", "json").out)
    prompt = lens.prompt_before(said.picture, f" {said.word}")
    expected = lens.neurons(prompt, f" {said.word}", positions=positions, top_k=4)
    assert [(row["layer"], row["neuron"], row["pos"]) for row in rows] == list(
        expected[["layer", "neuron", "pos"]].itertuples(index=False, name=None)
    )
    out = tmp_path / "found.html"
    assert run("neurons", said.picture, *options, "-o", out).code == 0
    page = out.read_text()
    assert page.count("data:image/jpeg;base64,") == 1 + 4, "the picture once, and each neuron's activation over it"
    assert all(f"layer {row['layer']}, neuron {row['neuron']}<br>" in page for row in rows)
    assert page.count("logits, strongest at row") == (4 if positions == "image" else 0)


def test_ablate_where_the_word_is_predicted(run, lens, said):
    rows = json.loads(
        run(
            "ablate",
            said.picture,
            "-w",
            said.word,
            "--top",
            30,
            "--positions",
            "last",
            "--random-draws",
            1,
            "-f",
            "json",
        ).out
    )
    word = f" {said.word}"
    prompt = lens.prompt_before(said.picture, word)
    ranked = lens.neurons(prompt, word, positions="last", top_k=30)
    effect = effect_of(lens.model, prompt.tokens, ablate(lens.model, ranked, positions=[-1]), word)
    assert rows[0]["probability_after"] == pytest.approx(float(effect.probability_after), rel=1e-4)
    free = lens.prompt(said.picture)
    with lens.model.hooks(fwd_hooks=ablate(lens.model, ranked, positions=slice(free.last_pos, None))):
        assert [rows[0]["caption_after"]] == lens.generate(free)


def test_patch_reads_the_word_where_the_clean_caption_says_it(run, said, pictures):
    ended = run("patch", said.picture, pictures[-1], "-w", said.word, "--layers", 7, "--site", "mlp_out")
    assert ended.code == 0
    assert ended.out.startswith(f"mlp_out of {said.picture} into {pictures[-1]}, logit of")


def test_patch_between_a_picture_and_itself_has_nothing_to_recover(run, pictures):
    ended = run("patch", pictures[0], pictures[0], "-w", "dog", *AFTER, "--layers", 0)
    assert ended.code == 1
    assert "no difference to recover" in ended.err.splitlines()[-1]


def test_train_writes_a_projection_and_continues(run, pictures, tmp_path):
    data, out = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    for picture in pictures[:4]:
        (data / picture.name).write_bytes(picture.read_bytes())
        (data / picture.name).with_suffix(".txt").write_text("a thing\n")
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"batch_size": 2, "learning_rate": 1, "dropout": 0.0, "checkpoint_every": 1}))
    ended = run("train", data, "--out", out, "--steps", 2, "--settings", settings, "--fresh", "--workers", 1)
    assert ended.code == 0
    first = load_file(out / "projection.safetensors")
    assert first["weight"].isfinite().all()
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    again = run("train", data, "--out", out, "--steps", 2, "--settings", settings, "--fresh", "--workers", 1)
    assert again.code == 0
    assert torch.equal(load_file(out / "projection.safetensors")["weight"], first["weight"]), "nothing was left to do"
    other = run("train", data, "--out", out, "--steps", 3, "--settings", settings, "--fresh", "--workers", 1)
    assert other.code == 1
    assert "steps: 2 there, 3 now" in other.err


def test_a_trained_projection_is_used(run, lens, pictures, tmp_path):
    from lens_multimodal import save_linear

    torch.manual_seed(0)
    other = torch.nn.Linear(lens.vision.d_vision, lens.shape.d_model)
    save_linear(other, tmp_path / "proj.ckpt")
    plain = json.loads(run("decode", "--picture", pictures[0], "-f", "json").out)
    own = json.loads(run("decode", "--picture", pictures[0], "--projection", tmp_path / "proj.ckpt", "-f", "json").out)
    assert plain != own


def test_info_tells_versions_devices_and_hook_points(run):
    rows = pd.DataFrame(json.loads(run("info", "-f", "json").out))
    values = rows.set_index("name")["value"]
    assert values["torch"] == version("torch")
    assert "cpu" in values
    points = rows[rows["kind"] == "hook point"].set_index("name")["value"]
    assert points["blocks.<layer>.mlp.hook_post"] == "fires, edits reach the logits"
    assert points["blocks.<layer>.attn.hook_pattern"] == "fires, read-only"
    assert len(points) == 9
    assert "hook point" not in run("info", "--no-hooks", "-f", "json").out


def _zero_before_output(mlp, neuron, positions):
    def zero(_module, inputs):
        edited = inputs[0].clone()
        edited[:, positions, neuron] = 0
        return (edited,)

    return mlp.fc_out.register_forward_pre_hook(zero)
