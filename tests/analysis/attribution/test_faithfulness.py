import numpy as np
import pandas as pd
import pytest
import torch

from lens_multimodal.analysis import ablation_effects, faithfulness, neuron_attribution
from lens_multimodal.analysis.attribution.integrated_gradients import IntegratedGradients
from tests.analysis.reference import PROMPT, logits_with, model_of, neuron_readers, plain

FAST = ("activation_x_gradient", "activation_x_decoded")


@pytest.fixture(scope="module")
def report():
    return faithfulness(model_of("gpt-j", "bridge"), PROMPT, 8, [1, 4, 6], scores=FAST, n_points=5)


def test_table_holds_scores_and_true_effects_of_all_neurons(report):
    model = model_of("gpt-j", "bridge")
    assert len(report.neurons) == 120
    score = neuron_attribution(model, PROMPT, 8, [1, 4, 6]).sum(dim=2).flatten()
    torch.testing.assert_close(torch.tensor(report.neurons["activation_x_gradient"].to_numpy()), score)
    effects = ablation_effects(model, PROMPT, 8, report.neurons, [1, 4, 6])
    np.testing.assert_allclose(report.neurons["effect"], effects["effect"], atol=1e-7)


def test_figures_by_an_independent_route(report):
    table, summary = report.neurons, report.summary.set_index("score")
    for name in FAST:
        a, b = (np.argsort(np.argsort(table[column].to_numpy())) for column in (name, "effect"))
        assert summary.loc[name, "spearman"] == pytest.approx(np.corrcoef(a, b)[0, 1])
        best = [set(table[column].nlargest(12).index) for column in (name, "effect")]
        assert summary.loc[name, "top_k_overlap"] == len(best[0] & best[1]) / 12
    assert report.top_k == 12
    assert summary.loc["ablation", ["spearman", "top_k_overlap"]].tolist() == [1, 1]
    assert abs(summary.loc["random", "spearman"]) < 0.3


def test_curves_are_real_ablations(report):
    model, readers = plain("gpt-j"), neuron_readers(plain("gpt-j"))
    curves = report.curves
    assert sorted(set(curves["n_neurons"])) == [0, 30, 60, 90, 120]
    order = report.neurons.sort_values("activation_x_gradient", ascending=False)
    for kind, silenced in (("deletion", order.head(30)), ("insertion", order.iloc[30:])):
        edits = {}
        for layer, part in silenced.groupby("layer"):
            neurons = torch.tensor(part["neuron"].to_numpy())

            def silence(activation, neurons=neurons):
                activation[:, torch.tensor([1, 4, 6])[:, None], neurons] = 0
                return activation

            edits[readers[layer]] = silence
        expected = float(logits_with(model, PROMPT, edits)[0, -1, 8])
        one = (curves["score"] == "activation_x_gradient") & (curves["kind"] == kind) & (curves["n_neurons"] == 30)
        assert curves[one]["value"].item() == pytest.approx(expected, abs=1e-5)


def test_curves_share_their_ends(report):
    ends = report.curves.pivot_table(index=["score", "kind"], columns="n_neurons", values="value")
    clean, ablated = report.clean_value, report.all_ablated_value
    np.testing.assert_allclose(ends.xs("deletion", level="kind")[[0, 120]], [[clean, ablated]] * 4, atol=1e-7)
    np.testing.assert_allclose(ends.xs("insertion", level="kind")[[0, 120]], [[ablated, clean]] * 4, atol=1e-7)


def test_rows_that_curves_share_are_run_once():
    model, rows = model_of("gpt-j", "bridge"), []
    with model.hooks(fwd_hooks=[("unembed.hook_out", lambda value, hook: rows.append(len(value)))]):
        found = faithfulness(
            model, PROMPT, 8, [1, 4], scores=FAST, neurons=[(0, 3), (1, 7), (2, 20), (2, 5)], n_points=3, batch_size=99
        )
    *_, effects, curves = rows
    assert effects == 1 + 4
    orders = [found.neurons.sort_values(name, ascending=False).index for name in (*FAST, "effect")]
    halves = {frozenset(half) for order in orders for half in (order[:2], order[2:])}
    assert 2 + len(halves) <= curves <= 2 + len(halves) + 2, "both ends once, each half once, the random order's halves"
    assert len(found.curves) == 4 * 2 * 3


def test_auc_by_hand(report):
    curve = report.curves.query("score == 'ablation' and kind == 'deletion'")["value"].to_numpy()
    expected = (curve[0] / 2 + curve[1] + curve[2] + curve[3] + curve[4] / 2) / 4
    assert report.summary.set_index("score").loc["ablation", "deletion_auc"] == pytest.approx(expected)


def test_the_gradient_beats_chance(report):
    summary = report.summary.set_index("score")
    assert summary.loc["activation_x_gradient", "spearman"] > 0.5
    assert summary.loc["activation_x_gradient", "deletion_auc"] < summary.loc["random", "deletion_auc"]
    assert summary.loc["activation_x_gradient", "insertion_auc"] > summary.loc["random", "insertion_auc"]


def test_a_sample_holds_the_best_and_repeats():
    model = model_of("gpt-j", "bridge")
    settings = {"scores": FAST[:1], "n_neurons": 20, "n_points": 2}
    first = faithfulness(model, PROMPT, 8, **settings)
    again = faithfulness(model, PROMPT, 8, **settings)
    pd.testing.assert_frame_equal(first.neurons, again.neurons)
    assert len(first.neurons) == 20
    best = neuron_attribution(model, PROMPT, 8).sum(dim=2).flatten().topk(10).indices.tolist()
    assert set(best) <= set(first.neurons["layer"] * 40 + first.neurons["neuron"])
    other = faithfulness(model, PROMPT, 8, seed=1, **settings)
    assert not other.neurons[["layer", "neuron"]].equals(first.neurons[["layer", "neuron"]])


def test_own_scores_and_given_neurons():
    scores = {"coarse": IntegratedGradients(steps=1), "fine": IntegratedGradients(steps=6)}
    report = faithfulness(
        model_of("llama", "bridge"), PROMPT, 8, scores=scores, neurons=[(0, 1), (2, 5), (2, 3)], n_points=3
    )
    assert report.neurons[["layer", "neuron"]].values.tolist() == [[0, 1], [2, 5], [2, 3]]
    assert report.summary["score"].tolist() == ["coarse", "fine", "ablation", "random"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scores": []}, r"score.* \[\]$"),
        ({"scores": ["ablation"]}, r"score.* \['ablation'\]$"),
        ({"scores": ["gradient"]}, "'gradient'"),
        ({"neurons": [(0, 1)]}, "neurons.* 1$"),
        ({"n_points": 1}, "n_points"),
        ({"top_k": 121}, "top_k .* 120 .* 121$"),
        ({"reduce": "median"}, "reduce .*'median'"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(ValueError, match=message):
        faithfulness(model_of("gpt-j", "bridge"), PROMPT, 8, **{"scores": FAST[:1], **settings})
