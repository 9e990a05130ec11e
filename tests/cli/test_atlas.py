"""`atlas` against the library's own answer."""

from lens_multimodal.atlas import Atlas
from lens_multimodal.tiny import scenes_folder

HOW = ["--data", scenes_folder(), "--layer", 3, "--limit", 8, "--batch-size", 4, "--quantile", 0.98]


def test_writes_tables_and_a_site(run, tmp_path):
    out = tmp_path / "out"
    ended = run("atlas", *HOW, "--pages", 20, "--top", 5, "--out", out)
    assert ended.code == 0, ended.err
    atlas = Atlas(out)
    assert set(atlas.neurons["layer"]) == {3}
    assert set(atlas.neurons["n_patches"]) == {8 * 36}
    assert atlas.patches["rank"].max() == 4
    assert str(out / "site" / "index.html") in ended.out
    assert len(list((out / "site" / "neuron").iterdir())) == 20
    again = run("atlas", *HOW, "--pages", 20, "--top", 5, "--out", out)
    assert again.code == 0


def test_the_estimate_writes_nothing(run, tmp_path):
    out = tmp_path / "out"
    ended = run("atlas", *HOW, "--estimate", "--for-pictures", 118287, "--out", out)
    assert ended.code == 0, ended.err
    assert "118,287 pictures" in ended.out
    assert not out.exists()
