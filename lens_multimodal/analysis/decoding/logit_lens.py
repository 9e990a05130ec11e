"""Logit lens: from which depth on does a position read as a given token?

The residual stream at every depth is unembedded as if it were the last: final norm, unembedding, softmax. Depth 0 is
what enters the first layer, depth `n_layers` is the model's own prediction. At an image position the interesting
token is the noun that belongs there, although the model never says it at that position.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lens_multimodal import transformer
from lens_multimodal.analysis.attribution.attribution_inputs import inputs_for_targets
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.positions import Positions
from lens_multimodal.arguments.targets import Tokens, read_tokens
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.precision import wide


@dataclass(frozen=True, kw_only=True, eq=False)
class LogitLens(ShownInNotebooks):
    """Rank, probability and logit of some tokens at some positions, at every depth."""

    token_ids: tuple[int, ...]
    positions: Int[Tensor, " pos"]
    rank: Int[Tensor, "token depth pos"]
    """Number of tokens with a larger logit; 0 is the top."""
    probability: Float[Tensor, "token depth pos"]
    logit: Float[Tensor, "token depth pos"]
    top_token: Int[Tensor, "depth pos"]
    """The most likely token of the whole vocabulary."""

    def first_depth(self, *, within: int = 1) -> Int[Tensor, "token pos"]:
        """The first depth at which a token is among the best `within`; -1 where it never is.

        Raises: ValueError if `within` is not positive.
        """
        if within < 1:
            raise ValueError(f"within must be positive, got {within}")
        reached = self.rank < within
        first = reached.int().argmax(dim=1)
        return torch.where(reached.any(dim=1), first, -1)


@public
def logit_lens(
    model: nn.Module,
    tokens: Int[Tensor, "1 prompt_pos"],
    token: Tokens,
    positions: Positions = None,
    *,
    attention_mask: Tensor | None = None,
    chunk: int = 64,
) -> LogitLens:
    """Rank and probability of tokens at every depth.

    Args:
        token: a token id, a string of one token, or several of them.
        positions: None for all.
        chunk: positions unembedded at a time; `chunk * d_vocab` logits exist at once.
    Raises: ValueError, TypeError for tokens or positions that do not exist; FloatingPointError for an overflow.
    """
    ids = tuple(read_tokens(model, token))
    inputs = inputs_for_targets(model, tokens, list(ids), positions, attention_mask=attention_mask)
    n_layers = transformer.shape(model).n_layers
    names = [transformer.resid_pre(0), *(transformer.resid_post(layer) for layer in range(n_layers))]
    kept: dict[str, Tensor] = {}
    hooks, last = transformer.keep(names, into=kept), inputs.tokens.shape[1] - 1
    with torch.no_grad():
        transformer.logits_of(model, inputs.tokens, attention_mask=attention_mask, first=last, hooks=hooks)
        depths = [_read(model, kept[name][0, inputs.positions.to(kept[name].device)], ids, chunk) for name in names]
    rank, probability, logit, top = (torch.stack(parts) for parts in zip(*depths, strict=True))
    return LogitLens(
        token_ids=ids,
        positions=inputs.positions,
        rank=rank.permute(2, 0, 1),
        probability=probability.permute(2, 0, 1),
        logit=logit.permute(2, 0, 1),
        top_token=top,
    )


def _read(
    model: nn.Module, resid: Float[Tensor, "pos d_model"], ids: Sequence[int], chunk: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rank, probability and logit, `[pos, token]`, and the top token, `[pos]`."""
    parts = []
    for rows in resid.split(chunk):
        logits = wide(transformer.unembed(model, rows[None])[0])
        if not bool(logits.isfinite().all()):
            raise FloatingPointError(
                f"the logits of the residual stream hold infinities or NaN in {resid.dtype}; run the model in float32"
            )
        chosen = logits[:, list(ids)]
        rank = torch.stack([(logits > chosen[:, i : i + 1]).sum(-1) for i in range(len(ids))], dim=-1)
        probability = logits.log_softmax(-1)[:, list(ids)].exp()
        parts.append((rank, probability, chosen, logits.argmax(-1)))
    rank, probability, chosen, top = (torch.cat(part) for part in zip(*parts, strict=True))
    return rank, probability, chosen, top
