"""What a forward pass needs in addition to image vectors, found from the token ids alone.

In some vision-language models an image changes more than embeddings: masks (Gemma 3, PaliGemma) or position ids
(Qwen2-VL). A virtual token id knows its image, so a hook on the forward pass sees from the ids where images are, and
asks the vision-language model what it would give its decoder there (`transformer.decoder_inputs`). Callers pass token
ids as usual. What cached steps need is stored on their key-value cache and freed with it.
"""

import threading
from collections.abc import Iterator, Mapping
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from lens_multimodal.latest import Latest
from lens_multimodal.prompt import compiled_images
from lens_multimodal.prompt.soft_prompt import SoftPrompt
from lens_multimodal.prompt.virtual_tokens import VirtualTokens
from lens_multimodal.transformer.decoder_inputs import DecoderInputs, along_with_images
from lens_multimodal.transformer.vision_language_models import forget_images
from lens_multimodal.transformer.watched_modules import taken_along

KEPT = "_lens_multimodal_decoder_inputs"
"""The attribute of a key-value cache that holds what its next steps need."""


KEPT_PROMPTS = 4
"""Prompts whose masks and positions are kept; a mask takes `[batch, pos, pos]` numbers."""


class NoForwardArguments(ValueError):
    """Image positions that the model cannot number."""


class ForwardArguments:
    """Hooks on a Hugging Face model's forward pass that add what images need.

    Args:
        module: the model whose forward pass takes token ids.
        vision_language: the vision-language model; `module` is its decoder, or itself.
        virtual_tokens: of the lens; its `remove` removes these hooks too.
        sample: what the model's processor makes of a picture followed by a text.
    """

    def __init__(
        self, module: nn.Module, vision_language: Any, virtual_tokens: VirtualTokens, *, sample: Mapping[str, Tensor]
    ) -> None:
        ids, along = sample["input_ids"], along_with_images(vision_language, sample)
        self._model = vision_language
        self._tokens: VirtualTokens | None = virtual_tokens
        self._image_token_id: int = vision_language.config.image_token_id
        self._by_token = [name for name, value in along.items() if value.shape == ids.shape]
        self._by_image = [name for name in along if name not in self._by_token]
        at_images = ids == self._image_token_id
        self._marks_images = all(torch.equal(along[name] == 1, at_images) for name in self._by_token)
        self._last_of_prompt = int(ids[0, -1])
        self._parameters = list(signature(module.forward).parameters)
        self._latest: Latest[Any, tuple[DecoderInputs, dict[str, Any]]] = Latest(KEPT_PROMPTS)
        self._pass = threading.local()
        self._module = module
        self._handles = (
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after),
        )

    @property
    def is_attached(self) -> bool:
        """Whether both hooks are on the model."""
        before, after = self._handles
        return before.id in self._module._forward_pre_hooks and after.id in self._module._forward_hooks

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copied model takes no images, and its forward pass is plain."""
        return _copied, ()

    # --- inside ------------------------------------------------------------------------------------------

    @taken_along
    @torch.compiler.disable
    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._tokens is None:
            return None
        self._pass.inputs = None
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        ids, cache = given.get("input_ids"), given.get("past_key_values")
        if not isinstance(ids, Tensor) or compiled_images.is_graph_of_text():
            return None
        n_cached = 0 if cache is None else int(cache.get_seq_length())
        if not n_cached and given.get("pixel_values") is None:
            forget_images(module)
        values = torch.func.debug_unwrap(ids, recurse=True)
        places = self._tokens.no_words(values)
        if compiled_images.has_no_values(places):
            return None
        inputs: DecoderInputs | None = None
        arguments: dict[str, Tensor] = {}
        if bool(places.any()):
            if n_cached:
                raise NoForwardArguments(
                    f"images after {n_cached} cached positions: {type(self._model).__name__} places images by the "
                    f"whole prompt, so give it in one pass"
                )
            arguments = self._arguments(self._tokens, values, places)
        elif n_cached and (kept := getattr(cache, KEPT, None)) is not None:
            inputs = kept
        else:
            if hasattr(cache, KEPT):
                delattr(cache, KEPT)
            return None
        mask = given.get("attention_mask")
        if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
            raise NoForwardArguments(
                f"{type(self._model).__name__} makes its own attention mask for images: give [batch, pos] or none"
            )
        written = values.masked_fill(places, self._image_token_id)
        if inputs is None:
            inputs, found = self._for_prompt(written, mask, cache, arguments)
        else:
            found = inputs.of(written, attention_mask=mask, cache=cache, arguments={})
        self._pass.inputs = inputs
        return (), {**given, **found}

    @taken_along
    @torch.compiler.disable
    def _after(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        if self._tokens is None:
            return
        inputs, self._pass.inputs = self._pass.inputs, None
        cache = getattr(output, "past_key_values", None)
        if inputs is not None and cache is not None:
            setattr(cache, KEPT, inputs)

    def _for_prompt(
        self, ids: Int[Tensor, "batch pos"], mask: Tensor | None, cache: Any, arguments: Mapping[str, Tensor]
    ) -> tuple[DecoderInputs, dict[str, Any]]:
        """Masks and positions of a whole prompt; the latest are kept, for analyses that run one prompt many times.

        Gemma 3 takes longer over its masks than a small model over the rest of a pass (transformers 5.23).
        """
        table = next(self._model.get_decoder().get_input_embeddings().parameters())
        tensors = (ids, *arguments.values()) if mask is None else (ids, *arguments.values(), mask)
        key = (table.dtype, table.device, *(_content(tensor) for tensor in tensors))

        @torch.inference_mode(False)
        def computed() -> tuple[DecoderInputs, dict[str, Any]]:
            inputs = DecoderInputs(self._model)
            return inputs, inputs.of(ids, attention_mask=mask, cache=cache, arguments=arguments)

        return self._latest.get(key, computed) if cache is None else computed()

    def _arguments(
        self, tokens: VirtualTokens, ids: Int[Tensor, "batch pos"], places: Bool[Tensor, "batch pos"]
    ) -> dict[str, Tensor]:
        types = places.long() if self._marks_images else self._behind_prompt(ids, places).long()
        found = dict.fromkeys(self._by_token, types)
        if self._by_image:
            runs = [(row, run) for row in range(len(ids)) for run in _runs(places[row])]
            images = [self._image_of(tokens.owners_of(ids[row, run]), run) for row, run in runs]
            for name in self._by_image:
                found[name] = torch.cat([image.forward_arguments[name].to(ids.device) for image in images])
        return found

    def _behind_prompt(
        self, ids: Int[Tensor, "batch pos"], places: Bool[Tensor, "batch pos"]
    ) -> Bool[Tensor, "batch pos"]:
        """Positions of text after the prompt; in a row without an image, all positions.

        A prompt ends with the token with which the processor ends it (PaliGemma: a new line). Without one, the prompt
        extends to the end of the row.
        """
        at = torch.arange(ids.shape[1], device=ids.device)
        ends = torch.where((ids == self._last_of_prompt) | places, at, -1).amax(dim=1, keepdim=True)
        ends = torch.where((ids.gather(1, ends.clamp(min=0)) == self._last_of_prompt), ends, ids.shape[1])
        return (at > ends) | ~places.any(dim=1, keepdim=True)

    def _image_of(self, owners: list[SoftPrompt], run: Int[Tensor, " run"]) -> SoftPrompt:
        """The image whose place a run of image positions takes, among the images to which the run's vectors belong."""
        owners = [owner for owner in owners if all(name in owner.forward_arguments for name in self._by_image)]
        where = f"image positions {int(run[0])} to {int(run[-1])}"
        if not owners:
            raise NoForwardArguments(
                f"{type(self._model).__name__} numbers image positions by row and column, and the vectors at {where} "
                f"came without a picture: store them with the forward_arguments of the image whose place they take"
            )
        first, *others = owners
        alike = all(
            torch.equal(first.forward_arguments[name].cpu(), other.forward_arguments[name].cpu())
            for other in others
            for name in self._by_image
        )
        if not alike or len(run) != len(first.vectors):
            raise NoForwardArguments(
                f"{type(self._model).__name__} numbers image positions by row and column, and {where} are not one "
                f"whole image: they hold {len(run)} vectors of {len(owners)} images, the first of {len(first.vectors)}"
            )
        return first


def _copied() -> ForwardArguments:
    copy = object.__new__(ForwardArguments)
    copy._tokens = None
    return copy


def _content(tensor: Tensor) -> tuple[Any, ...]:
    """A key that differs between small tensors of integers that differ."""
    return tuple(tensor.shape), tensor.cpu().numpy().tobytes()


def _runs(places: Bool[Tensor, " pos"]) -> Iterator[Int[Tensor, " run"]]:
    """The positions of each run of image positions in a row."""
    at = places.nonzero().flatten()
    breaks = (at[1:] - at[:-1] > 1).nonzero().flatten() + 1
    yield from (run for run in torch.tensor_split(at, breaks.cpu()) if len(run))
