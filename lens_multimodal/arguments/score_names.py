"""The attribution scores and reductions by name. To add a score, write its class in
`analysis/attribution` and enter it here.

The command line's help lists the scores and must not wait for PyTorch, so this module has only their names.
"""

SCORE_CLASSES = {
    "activation_x_gradient": "gradients.ActivationXGradient",
    "activation_x_decoded": "direct_effects.ActivationXDecoded",
    "local_direct_effect": "direct_effects.LocalDirectEffect",
    "direct_effect": "direct_effects.DirectEffect",
    "integrated_gradients": "integrated_gradients.IntegratedGradients",
    "ablation": "ablation_effect.Ablation",
}
"""The module and class of each score, in the order in which they are listed. The first is the paper's."""

REDUCTIONS = ("max", "sum", "mean")
"""Ways to one number per neuron from its positions; the paper takes the maximum."""
