"""Do a concept's neurons recur over its pictures? Found on one half of the pictures, confirmed on the other.

A neuron recurs in a picture of a category if it is on at an image patch that is at least half covered by the
category. A category's best neurons are found by their overlap over the pictures at even places of the random order.
Their recurrence over the pictures at odd places is compared with that of random neurons of the same layers and of the
neurons found for other categories.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

N_FOUND = 10
"""Neurons found for each category."""

N_DRAWS = 1000
"""Sets of random neurons, each with as many neurons of each layer as were found."""

FEWEST = 2
"""Pictures that a category needs in each half."""


def recurrence_table(
    iou: Float[np.ndarray, "neuron category"],
    recurrence: Float[np.ndarray, "neuron category"],
    layer_of: Int[np.ndarray, " neuron"],
    categories: list[str],
    pictures: Int[np.ndarray, "half category"],
    *,
    seed: int,
) -> pd.DataFrame:
    """One row for each category with enough pictures on both halves.

    Args:
        iou: over the half on which neurons are found.
        recurrence: over the other half.
        layer_of: each neuron's layer.

    Returns: the columns of `recurrence` in `atlas_tables.COLUMNS`.
    """
    enough = [c for c in range(len(categories)) if (pictures[:, c] >= FEWEST).all()]
    count = min(N_FOUND, len(iou))
    found = {c: np.argsort(-iou[:, c], kind="stable")[:count] for c in enough}
    of_layer = {layer: np.flatnonzero(layer_of == layer) for layer in np.unique(layer_of)}
    rows = []
    for c in enough:
        own = recurrence[:, c]
        generator = np.random.default_rng([seed, c])
        drawn = np.stack([generator.choice(of_layer[layer_of[n]], N_DRAWS) for n in found[c]], axis=1)
        random = own[drawn].mean(axis=1)
        others = [own[found[other]].mean() for other in enough if other != c]
        mean = own[found[c]].mean()
        rows.append(
            {
                "category": categories[c],
                "n_neurons": count,
                "pictures": int(pictures[1, c]),
                "recurrence": mean,
                "random": random.mean(),
                "random_high": np.quantile(random, 0.975),
                "other_concepts": float(np.mean(others)) if others else None,
                "p": (1 + int((random >= mean - 1e-12).sum())) / (1 + N_DRAWS),
            }
        )
    names = ["category", "n_neurons", "pictures", "recurrence", "random", "random_high", "other_concepts", "p"]
    table = pd.DataFrame(rows, columns=names)
    return table.sort_values(["p", "recurrence"], ascending=[True, False], kind="stable").reset_index(drop=True)
