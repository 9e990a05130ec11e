"""The experiments' numbers computed independently: plain `transformers`, NumPy and PIL, nothing from the library.

Covers the planted world of `tests.experiments.planted`: its encoder and projection are written out as array arithmetic.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import GPTJForCausalLM, PreTrainedTokenizerBase

Neuron = tuple[int, int]


class Plain:
    """A bare GPT-J, and an encoder and projection as weights."""

    def __init__(
        self, model: GPTJForCausalLM, words: PreTrainedTokenizerBase, weight: np.ndarray, bias: np.ndarray
    ) -> None:
        self.model, self.words, self.weight, self.bias = model, words, weight, bias

    # --- pictures -------------------------------------------------------------------------------------------

    def vectors(self, path: Path, *, side: int = 24, patch: int = 8) -> np.ndarray:
        """Mean colour of each patch through the linear map."""
        small = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        return self.map(self.colours(np.asarray(small, dtype=np.float64) / 127.5 - 1, patch))

    def colours(self, pixels: np.ndarray, patch: int) -> np.ndarray:
        n = pixels.shape[0] // patch
        return pixels.reshape(n, patch, n, patch, 3).mean(axis=(1, 3)).reshape(n * n, 3)

    def map(self, colours: np.ndarray) -> np.ndarray:
        return colours @ self.weight.T + self.bias

    def embeds(self, vectors: np.ndarray, ids: Iterable[int]) -> torch.Tensor:
        table = self.model.transformer.wte.weight
        return torch.cat([torch.as_tensor(vectors).to(table), table[list(ids)]])[None]

    # --- runs -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logits(self, embeds: torch.Tensor, without: Iterable[Neuron] = (), *, n_image: int = 0, **more) -> np.ndarray:
        with self.ablated(without, n_image):
            return self.model(inputs_embeds=embeds, **more).logits[0].numpy()

    def probabilities(self, embeds: torch.Tensor, without: Iterable[Neuron] = (), *, n_image: int = 0, **more):
        logits = self.logits(embeds, without, n_image=n_image, **more)
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    def caption(self, vectors: np.ndarray, ids: list[int], n_tokens: int, without: Iterable[Neuron] = ()) -> list[int]:
        """Greedy; the whole prompt runs again for every token."""
        stops = {self.words.eos_token_id, *self.words("\n")["input_ids"]}
        said: list[int] = []
        while len(said) < n_tokens:
            logits = self.logits(self.embeds(vectors, [*ids, *said]), without, n_image=len(vectors))
            token = int(logits[-1].argmax())
            if token in stops:
                break
            said.append(token)
        return said

    @contextmanager
    def ablated(self, neurons: Iterable[Neuron], n_image: int) -> Iterator[None]:
        by_layer: dict[int, list[int]] = {}
        for layer, neuron in neurons:
            by_layer.setdefault(int(layer), []).append(int(neuron))

        def zero(columns: list[int]):
            def edit(_module, args):
                values = args[0].clone()
                values[:, :n_image, columns] = 0
                return (values, *args[1:])

            return edit

        handles = [self._readers[layer].register_forward_pre_hook(zero(own)) for layer, own in by_layer.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def activations(self, embeds: torch.Tensor) -> np.ndarray:
        """`[layer, pos, d_mlp]`"""
        return np.stack([value.detach()[0].numpy() for value in self._run(embeds)[1]])

    def attribution(self, embeds: torch.Tensor, pos: int, token: int, n_image: int) -> np.ndarray:
        """Activation times gradient at the image positions, `[layer, pos, d_mlp]`."""
        logits, kept = self._run(embeds.clone().requires_grad_())
        gradients = torch.autograd.grad(logits[0, pos, token], kept)
        return np.stack([(a.detach() * g)[0, :n_image].numpy() for a, g in zip(kept, gradients, strict=True)])

    def residuals(self, embeds: torch.Tensor) -> np.ndarray:
        """Before the first layer and after each, `[depth, pos, d_model]`."""
        kept: list[torch.Tensor] = []
        handles = [
            block.register_forward_hook(lambda _m, _a, out: kept.append(out[0] if isinstance(out, tuple) else out))
            for block in self.model.transformer.h
        ]
        with torch.no_grad():
            self.model(inputs_embeds=embeds)
        for handle in handles:
            handle.remove()
        return np.stack([part.detach().reshape(-1, embeds.shape[-1]).numpy() for part in (embeds, *kept)])

    def unembedded(self, residual: np.ndarray) -> np.ndarray:
        """Final norm and unembedding in NumPy."""
        norm, head = self.model.transformer.ln_f, self.model.lm_head
        centred = residual - residual.mean(axis=-1, keepdims=True)
        scale = np.sqrt(residual.var(axis=-1, keepdims=True) + norm.eps)
        normed = centred / scale * norm.weight.detach().numpy() + norm.bias.detach().numpy()
        return normed @ head.weight.detach().numpy().T + head.bias.detach().numpy()

    # --- words ----------------------------------------------------------------------------------------------

    def spoken(self, neuron: Neuron, count: int = 10) -> list[str]:
        """What a neuron's output weights say through the unembedding."""
        return [self.words.decode([i]) for i in self.spoken_ids(neuron, count)]

    def spoken_ids(self, neuron: Neuron, count: int = 10) -> list[int]:
        written = self._readers[neuron[0]].weight.detach().numpy()[:, neuron[1]]
        best = np.argsort(-(self.model.lm_head.weight.detach().numpy() @ written), kind="stable")[:count]
        return best.tolist()

    def nearest(self, vector: np.ndarray, count: int = 10) -> tuple[list[int], list[float]]:
        """Tokens by cosine of their input embeddings."""
        table = self.model.transformer.wte.weight.detach().numpy()
        cosine = table @ vector / np.linalg.norm(table, axis=1) / np.linalg.norm(vector)
        best = np.argsort(-cosine, kind="stable")[:count]
        return best.tolist(), cosine[best].tolist()

    @property
    def _readers(self) -> list[torch.nn.Module]:
        return [block.mlp.fc_out for block in self.model.transformer.h]

    def _run(self, embeds: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        kept: list[torch.Tensor] = []
        handles = [r.register_forward_pre_hook(lambda _m, args: kept.append(args[0])) for r in self._readers]
        try:
            logits = self.model(inputs_embeds=embeds).logits
        finally:
            for handle in handles:
                handle.remove()
        return logits, kept


def bilinear(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Grid values at pixel centres, edges continued; each axis separately."""

    def weights(n_cells: int, n_pixels: int) -> np.ndarray:
        at = np.clip((np.arange(n_pixels) + 0.5) * n_cells / n_pixels - 0.5, 0, n_cells - 1)
        low = np.minimum(np.floor(at).astype(int), n_cells - 2)
        rows = np.zeros((n_pixels, n_cells))
        rows[np.arange(n_pixels), low] = 1 - (at - low)
        rows[np.arange(n_pixels), low + 1] = at - low
        return rows

    return weights(values.shape[0], height) @ values @ weights(values.shape[1], width).T


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    return float(np.logical_and(one, other).sum() / np.logical_or(one, other).sum())


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties by their mean."""
    order = np.argsort(values, kind="stable")
    found = np.empty(len(values))
    found[order] = np.arange(1, len(values) + 1)
    for value in np.unique(values):
        same = values == value
        found[same] = found[same].mean()
    return found
