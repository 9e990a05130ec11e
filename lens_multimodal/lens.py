"""`VisionLens`: a captioning model, the neurons behind its words, and saving and detaching it."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from lens_multimodal import saved_lens, transformer
from lens_multimodal.analysis.activation_table import activation_table
from lens_multimodal.analysis.image_neurons import image_neurons
from lens_multimodal.analysis.neuron_table import NeuronTable
from lens_multimodal.arguments.boundary import public
from lens_multimodal.arguments.positions import Positions, positions_in
from lens_multimodal.arguments.targets import Token, read_token
from lens_multimodal.arguments.units import Neurons
from lens_multimodal.atlas import Atlas
from lens_multimodal.image.pictures import Picture
from lens_multimodal.neuron_card import NeuronCard, neuron_card
from lens_multimodal.notebook import ShownInNotebooks
from lens_multimodal.prompt import generation
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.prompt.image_prompt import ImagePrompt
from lens_multimodal.prompt.other_vectors import with_other_vectors
from lens_multimodal.prompt.virtual_tokens import attached_to
from lens_multimodal.prompt.vision_tower import VisionTower
from lens_multimodal.transformer.sampling import Sampling


class VisionLens(CaptioningModel, ShownInNotebooks):
    """A TransformerLens model that takes images wherever it takes tokens; made by `attach_vision`.

    Attributes:
        model: the TransformerLens model, to be used as usual: `run_with_cache`, `hooks`, `generate`, ...
        images: what turns pictures into soft prompts: `vision` and `projection`, or a vision-language model's own.
        vision: the frozen image encoder.
        projection: the linear map from image features to soft prompts.
        tokenizer: the language model's Hugging Face tokenizer, or None.
        text: the same tokenizer as prompts and captions use it: `lens.text.encode`, `lens.text.caption`, ...
    """

    @public
    def neurons(
        self,
        image: Picture | ImagePrompt,
        target: Token,
        *,
        positions: Positions = "image",
        top_k: int = 100,
        score: str = "activation_x_gradient",
        reduce: str = "max",
        prepend_bos: bool | None = None,
    ) -> NeuronTable:
        """The MLP neurons that turn the image into a word: the paper's ranking (sections 2.1 and 2.2).

        Args:
            image: a picture, whose caption must contain the target; or a prompt of one row that ends where the target
                is predicted (`lens.prompt(image, "A picture of a")`).
            target: a token id, or a string that is one token, its leading space included.
            positions: where neurons are scored: "image", where the picture is read (paper); "last", where the word is
                predicted (Pan et al. 2024); "text"; or positions of the prompt by number, None for all.
            score: a name of `analysis.attribution.SCORES`.
            reduce: over the positions: max (paper), sum or mean.
            prepend_bos: as in `prompt`, for a picture; a prompt has its own.

        Returns:
            One row per neuron, best first: layer, neuron, attribution (logits), pos (position in the prompt where the
            attribution is largest), row, col (its image patch; -1 at a word), tokens (decoded, best first),
            interpretable (at least 7 of 10 are English words, the paper's rule), whole_words (at least 7 begin a word
            and have three letters or more).

        Raises: as `analysis.top_neurons` and `prompt_before`; ValueError for a prompt without an image.
        """
        token = read_token(self.model, target, name="target", tokenizer=self.tokenizer)
        if not isinstance(image, ImagePrompt):
            image = self.prompt_before(image, token, prepend_bos=prepend_bos)
        return image_neurons(self.model, image, token, positions=positions, top_k=top_k, score=score, reduce=reduce)

    @public
    def activations(self, prompt: ImagePrompt, neurons: Neurons) -> pd.DataFrame:
        """Activations of some neurons at every position of a prompt, image patches and words side by side (Xu et al.
        2025).

        Args: neurons: as in `hooks.ablate`: a table, pairs `(layer, neuron)`, ...

        Returns:
            One row per neuron, in the order given, and position: layer, neuron, pos, token (the word, or the image
            patch as `to_str_tokens` writes it), image (number of the image in the prompt, -1 at a word), row, col
            (image patch; -1 where the position shows none), activation.

        Raises: ValueError for a prompt of several rows; as `analysis.neuron_activations`.
        """
        return activation_table(self.model, prompt, neurons, names=self.to_str_tokens(prompt))

    @public
    def replace_patches(
        self, prompt: ImagePrompt, positions: Positions, *, by: Float[Tensor, " d_model"]
    ) -> ImagePrompt:
        """The same prompt with one vector at some of its image positions (Neo et al. 2024: the mean image vector).

        The decoder never reads what stood there. The other positions keep their vectors, although the image encoder's
        attention has spread some of what those patches show over them.

        Args:
            prompt: of one row.
            positions: of the prompt, such as `patches_of(prompt, seg_mask)`.
            by: such as `analysis.mean_image_vector(lens, pictures)`.

        Raises: ValueError for a position that shows no image, or a vector of another width.
        """
        at = positions_in(prompt.at(positions), prompt.tokens.shape[1])
        return with_other_vectors(prompt, at, by, virtual_tokens=self.virtual_tokens)

    def chat(
        self, image: Picture, question: str, *, max_new_tokens: int = 100, sampling: Sampling | None = None
    ) -> str:
        """The answer of an instruction-tuned model to a question about a picture, up to its end token.

        Raises: ValueError for a model without a chat template.
        """
        prompt = self.chat_prompt(image, question)
        (ids,) = generation.generate(
            self.model, prompt, max_new_tokens=max_new_tokens, stop_ids=self.text.end_ids, sampling=sampling
        )
        self.forget(prompt)
        return self.text.decode(ids).strip()

    def chat_prompt(self, image: Picture, question: str) -> ImagePrompt:
        """The prompt of `chat`: a user's turn by the model's own chat template, and the beginning of the answer.

        Raises: ValueError for a model without a chat template.
        """
        return self.prompt(image, self.images.chat(question))

    @public
    def show(
        self,
        neuron: Any,
        *,
        image: Picture | ImagePrompt | None = None,
        target: Token | None = None,
        pictures: Sequence[Picture] | None = None,
        atlas: Atlas | str | Path | None = None,
    ) -> NeuronCard:
        """Everything about one neuron on a card: receptive field, words, attribution, ablation, sample pictures.

        Args:
            neuron: `(layer, neuron)`, or a row of a table of neurons (`found.iloc[0]`).
            image: a picture or a prompt of one row, as in `neurons`; None takes the sample picture on which the neuron
                is most active.
            target: as in `neurons`; None takes the word of the model's own caption that the neuron raises most, or,
                for a prompt, the most likely next token.
            pictures: to look for activity in; None takes 24 of the embedded scenes.
            atlas: an atlas of this lens (`build_atlas`), or its folder: the card also shows what drives the neuron over
                the whole data set, and links to its page.

        Returns:
            A card with its data as attributes, shown as HTML in notebooks, with `save_html(path)` and figures.

        Raises: ValueError, TypeError as `neurons`; for a neuron that does not exist, an image without a patch grid, or
            an atlas of another lens; FileNotFoundError for a folder without a finished atlas.
        Cost: one forward pass for each sample picture, three for the card, one backward pass for each candidate word.
        """
        return neuron_card(self, neuron, image=image, target=target, pictures=pictures, atlas=atlas)

    def to_str_tokens(self, prompt: ImagePrompt | Int[Tensor, " pos"]) -> list[str]:
        """Each position in readable form: words as text, image positions as `<image:row,col>`.

        Takes a prompt of one row, or the ids of one.
        """
        if isinstance(prompt, ImagePrompt):
            prompt.check_one_row()
            names = {p: _shown(s.image.cell(i)) for s in prompt.spans[0] for i, p in enumerate(s.positions)}
            ids = prompt.tokens[0].tolist()
            return [names[p] if p in names else self.text.token(i) for p, i in enumerate(ids)]
        return ["<image>" if i >= self.shape.d_vocab else self.text.token(i) for i in prompt.tolist()]

    @property
    def is_attached(self) -> bool:
        """Whether the model takes images: False after `detach`, or if other code removed the hooks of the lens."""
        own = self.virtual_tokens
        return attached_to(transformer.embedding_module(self.model)) is own and own.is_attached

    @property
    def runs_on(self) -> str:
        """What the next forward pass runs through: "bare modules", or "TransformerLens model" and why.

        Where no hook is on a `TransformerBridge`, the library runs the Hugging Face modules inside it without the
        wrappers around them, after it has compared the two once. `running_on` forces either.
        """
        reason = transformer.why_hooked(self.model)
        return "bare modules" if reason is None else f"TransformerLens model: {reason}"

    def running_on(self, how: str) -> AbstractContextManager[None]:
        """Force what the passes of the library run through within a block.

        Args: how: "hooked" (the TransformerLens model), "bare" (the modules inside it) or "auto".
        Raises: ValueError for another word; in the block, RuntimeError for a pass that bare modules cannot make.
        """
        return transformer.running_on(self.model, how)

    def detach(self) -> None:
        """Remove the lens: the model is again as it was before, bit for bit."""
        self.virtual_tokens.remove()
        transformer.count_as_before(self.model)
        transformer.forget_twin(self.model)

    def save_pretrained(self, folder: str | Path, *, without: Collection[str] = (), overwrite: bool = False) -> None:
        """Write one folder that `attach_vision(folder)` loads: language model, tokenizer, encoder, projection, card.

        A vision-language model is written as Hugging Face does, with its processor.

        Args, Raises: as `saved_lens.save`; ValueError for parts to leave out of a vision-language model.
        """
        if isinstance(self.images, VisionTower):
            if without or overwrite:
                raise ValueError("a vision-language model is saved whole, to a folder of its own")
            self.images.save(Path(folder))
            return
        saved_lens.save(self, Path(folder), without=without, overwrite=overwrite)

    def __enter__(self) -> "VisionLens":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __repr__(self) -> str:
        s = self.shape
        return (
            f"VisionLens({self.name}: {type(self.model).__name__} with {s.n_layers} layers of d_model={s.d_model}, "
            f"{s.n_neurons:,} neurons; {self.images.name}, {self.images.summary}; "
            f"weight processing: {transformer.weight_processing(self.model)}; "
            f"{len(self.virtual_tokens)} images in {self.virtual_tokens.nbytes / 2**20:.1f} MiB"
            f"{'' if self.is_attached else '; detached: it takes no images'})"
        )


def _shown(cell: tuple[int, int] | None) -> str:
    return "<image>" if cell is None else "<image:{},{}>".format(*cell)
