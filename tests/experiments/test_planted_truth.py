"""The experiments find a neuron that is wired by hand to write one noun where one image direction is present."""

import pytest
import torch

from lens_multimodal.experiments import EXPERIMENTS
from lens_multimodal.experiments.causal import Causal, CausalSettings
from lens_multimodal.experiments.controls import Controls, ControlsSettings
from lens_multimodal.experiments.depth import Depth, DepthSettings
from lens_multimodal.experiments.discovery import Discovery, DiscoverySettings
from lens_multimodal.experiments.follow_ups import FollowUps, FollowUpsSettings
from lens_multimodal.experiments.image_prompts_as_words import Projection, ProjectionSettings
from lens_multimodal.experiments.score_faithfulness import Faithfulness, FaithfulnessSettings
from lens_multimodal.experiments.selectivity import Selectivity, SelectivitySettings
from lens_multimodal.experiments.shared.once import Once
from tests.experiments.planted import LAYER, NEURON, World, make_world
from tests.models import MODEL_CLASSES

RED_CELL = (1, 1)


@pytest.fixture(scope="module", params=[kind for kind in MODEL_CLASSES if kind != "compat"])
def world(request, tmp_path_factory) -> World:
    return make_world(tmp_path_factory.mktemp("planted"), kind=request.param)


@pytest.fixture(scope="module")
def shared() -> Once:
    return Once()


def rows(world: World, experiment, settings, index: int = 0, **picture):
    state = world.picture(index, **picture)
    return experiment.rows(world.context(state, settings))


def test_the_model_says_dog_where_the_picture_is_red_and_not_elsewhere(world):
    assert world.picture(0).caption.startswith("dog")
    assert [noun.name for noun in world.picture(0).nouns] == ["dog"]
    assert "dog" not in world.picture(1).caption


def test_discovery_puts_the_planted_neuron_first(world):
    found = rows(world, Discovery(), DiscoverySettings())
    first = found["neurons"].iloc[0]
    assert (first["layer"], first["neuron"]) == (LAYER, NEURON)
    assert (first["row"], first["col"]) == RED_CELL
    assert first["attribution"] > 10 * found["neurons"]["attribution"].iloc[1]
    assert first["tokens"][0] == " dog"
    assert first["interpretable"]
    assert first["says_noun"]
    noun = found["nouns"].iloc[0]
    assert noun["in_picture"]
    assert noun["in_human_captions"]
    assert noun["probability"] > 0.5


def test_without_the_plant_discovery_finds_something_else(tmp_path):
    bare = make_world(tmp_path, planted=False)
    picture = bare.picture(0)
    assert "dog" not in picture.caption
    for table in picture.top:
        assert (table["layer"].iloc[0], table["neuron"].iloc[0]) != (LAYER, NEURON)


def test_its_receptive_field_is_the_red_square(world):
    found = rows(world, Selectivity(), SelectivitySettings(n_neurons=1))
    fields = found["fields"]
    planted = fields[(fields["unit"] == "neuron") & (fields["neurons"] == "top")].iloc[0]
    assert (planted["layer"], planted["neuron"]) == (LAYER, NEURON)
    assert planted["inside"] == 1.0
    assert planted["iou"] > 0.4, "5 % of the pixels, all inside a square of 11 %, can reach 0.45"
    own = found["maps"][found["maps"]["neuron"] == NEURON].iloc[0]
    activation = torch.tensor(own["activation"])
    assert int(activation.argmax()) == RED_CELL[0] * 3 + RED_CELL[1]


def test_its_ablation_removes_the_noun_and_that_of_random_neurons_does_not(world):
    found = rows(world, Causal(), CausalSettings(counts=(1, 2), caption_counts=(1,)))
    alone = found["ablations"].query("n_neurons == 1").set_index("neurons")
    assert alone.loc["top", "relative_change"] < -0.9
    assert abs(alone.loc["random", "relative_change"]) < 0.1
    captions = found["captions"].set_index("neurons")
    assert not captions.loc["top", "says_noun"]
    assert captions.loc["random", "says_noun"]


def test_cutting_text_from_the_image_matters_in_the_layer_that_carries_it_and_in_no_other(world):
    found = rows(world, Depth(), DepthSettings())
    cuts = found["cuts"].set_index(["cut", "layer"])["relative_change"]
    assert cuts["from", 0] < -0.9
    assert cuts["from", 1] < -0.9
    assert abs(cuts["from", 2]) < 0.1
    assert abs(cuts["up to", 1]) < 0.1
    assert cuts["up to", 2] < -0.9
    lens = found["lens"].set_index(["place", "depth"])
    assert lens.loc[("object", 1), "best_rank"] == 0
    assert lens.loc[("background", 1), "log_probability"] < lens.loc[("object", 1), "log_probability"]


def test_controls_without_the_colour_keep_nothing(world):
    found = rows(world, Controls(), ControlsSettings())["conditions"].set_index("condition")
    assert found.loc["picture", "overlap"] == 1.0
    assert found.loc["picture", "relative_change_top"] < -0.9
    assert found.loc["shuffled positions", "probability"] > 0.5
    for control in ("blank picture", "another picture"):
        assert found.loc[control, "probability"] < 0.1
        assert abs(found.loc[control, "relative_change_top"]) < 0.5
    assert abs(found.loc["untrained language model", "relative_change_top"]) < 0.5
    assert found["caption_says_noun"].dropna().loc["picture"]
    assert not found["caption_says_noun"].dropna().loc["blank picture"]


def test_removing_the_object_removes_the_noun_and_removing_background_does_not(world):
    found = rows(world, FollowUps(), FollowUpsSettings(covered=0.5, mean_over=1))
    regions = found["regions"].set_index("condition")
    assert regions.loc["picture", "probability"] > 0.5
    assert regions.loc["object removed (mean vector)", "probability"] < 0.1
    for harmless in (
        "background shuffled",
        "background removed (mean vector)",
        "as much background removed (mean vector)",
    ):
        assert regions.loc[harmless, "probability"] > 0.5
    assert regions.loc["object removed (mean vector)", "n_object"] == 1
    neurons = found["neurons"].iloc[0]
    assert (neurons["layers"][0], neurons["neurons"][0]) == (LAYER, NEURON)
    assert neurons["sensitivity_top"] == pytest.approx(neurons["sensitivity_top"])


def test_attribution_is_faithful_to_the_planted_neuron(world):
    scores = rows(world, Faithfulness(), FaithfulnessSettings(n_neurons=120, integrate_every=1))["scores"].set_index(
        "score"
    )
    assert scores.loc["activation_x_gradient", "spearman"] > 0.5
    assert scores.loc["ablation", "spearman"] == pytest.approx(1.0)


def test_image_prompts_do_not_say_dog_here(world):
    positions = rows(world, Projection(), ProjectionSettings())["positions"]
    read = positions[(positions["source"] == "image prompts") & (positions["way"] == "embedding")]
    assert len(read) == 9
    assert read.loc[read["shows"] == "dog", ["row", "col"]].to_numpy().tolist() == [list(RED_CELL)]


def test_every_picture_gives_rows_of_the_promised_tables(world, shared):
    for experiment in EXPERIMENTS.values():
        for index in (0, 1):
            state = world.picture(index)
            settings = experiment.settings(
                **({"n_neurons": 10, "integrate_every": 1} if experiment.name == "faithfulness" else {})
            )
            found = experiment.rows(world.context(state, settings, once=shared))
            assert tuple(found) == experiment.tables
            for table in found.values():
                assert table.columns[0] == "image_id"
                assert (table["image_id"] == state.scene.id).all()
