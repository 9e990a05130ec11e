"""How alike two orders of the same things are."""

import pandas as pd
from jaxtyping import Shaped
from torch import Tensor


def rank_correlation(one: Shaped[Tensor, " value"], other: Shaped[Tensor, " value"]) -> float:
    """Spearman's rank correlation, equal values sharing a rank; NaN for fewer than two values, or if all are equal."""
    values = {name: tensor.detach().double().cpu().numpy() for name, tensor in (("one", one), ("other", other))}
    return float(pd.DataFrame(values).rank().corr().iloc[0, 1])
