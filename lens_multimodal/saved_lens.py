"""A whole lens in one folder, and back.

lens.json                the parts, their checksums, weight processing, format version
language/                the language model as Hugging Face saves it, with its tokenizer
vision.json              the encoder's architecture and preprocessing
vision.safetensors       the encoder's weights
projection.safetensors   the map's weight and bias; proj.ckpt holds the same in LiMBeR's format
README.md                a short card
"""

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import lens_multimodal
from lens_multimodal import transformer
from lens_multimodal.files import check_folder_name, digest_of_file, outside, write_atomically
from lens_multimodal.image import encoder_config
from lens_multimodal.image.encoder import VisionEncoder
from lens_multimodal.image.preprocessing import Preprocessing
from lens_multimodal.prompt.captioning_model import CaptioningModel
from lens_multimodal.prompt.projection import Projection, load_linear, save_projector
from lens_multimodal.transformer.loading import in_class, load_causal_lm
from lens_multimodal.transformer.to_hugging_face import to_hugging_face

FORMAT = 1
"""Version of the folder's layout; other versions are refused."""

CARD = "lens.json"
OPTIONAL = ("vision", "projection")

_ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")
"""Implementations that transformers contains; it would download code for any other name."""


def save(lens: CaptioningModel, folder: Path, *, without: Collection[str] = (), overwrite: bool = False) -> None:
    """Write a lens; the folder appears whole or not at all.

    Args:
        lens: its model has unprocessed weights, its encoder was built by timm, its projection is an `nn.Linear`; the
            last two may be left out.
        folder: created by this call.
        without: parts to leave out ("vision", "projection" or both), to be passed to `attach_vision` on loading.
        overwrite: replace a lens saved there before.

    Raises:
        FileExistsError: the folder holds something else, or a lens and `overwrite` is False.
        ValueError: a part that cannot be saved, or a folder whose name is not UTF-8; the error says what to do.
    """
    unknown = set(without) - set(OPTIONAL)
    if unknown or isinstance(without, str):
        raise ValueError(f"without takes a list of {' and '.join(OPTIONAL)}, got {without!r}")
    _check_free(folder, overwrite)
    model, tokenizer, vision = lens.model, lens.tokenizer, lens.vision
    language_model = to_hugging_face(model)
    described = None if "vision" in without else _describe(vision)
    linear = None if "projection" in without else _linear(lens.projection)
    with write_atomically(folder) as partial:
        partial.mkdir()
        language_model.save_pretrained(partial / "language")
        if tokenizer is not None:
            tokenizer.save_pretrained(partial / "language")
        if described is not None:
            (partial / "vision.json").write_text(json.dumps(described, indent=1) + "\n")
            state = {k: v.detach().cpu().contiguous().clone() for k, v in vision.module.state_dict().items()}
            save_file(state, partial / "vision.safetensors")
        if linear is not None:
            save_projector(linear, partial)
        shape = transformer.shape(model)
        card = {
            "format": FORMAT,
            "name": lens.name,
            "lens_multimodal": lens_multimodal.__version__,
            "transformer_lens": version("transformer-lens"),
            "weight_processing": "none",
            "model_class": transformer.class_name(model),
            "attn_implementation": language_model.config._attn_implementation,
            "tokenizer": tokenizer is not None,
            "without": sorted(without),
            "d_model": shape.d_model,
            "d_vision": vision.d_vision,
            "files": {},
        }
        (partial / "README.md").write_text(_readme(card, language_model, vision))
        card["files"] = {path: digest_of_file(partial / path) for path in _weighed(partial)}
        (partial / CARD).write_text(json.dumps(card, indent=1) + "\n")


def is_saved_lens(folder: object) -> bool:
    """Whether a path or string names a folder written by `save`."""
    return isinstance(folder, (str, Path)) and (Path(folder) / CARD).is_file()


@dataclass(frozen=True, kw_only=True)
class SavedLens:
    """The parts of a saved lens. Each is loaded on demand, after a check that its files are unchanged."""

    folder: Path
    card: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.card["name"])

    def language_model(self, *, device: Any = None, dtype: torch.dtype | None = None) -> tuple[nn.Module, Any]:
        """The TransformerLens model of the saved class (a bridge where that class is gone), and its tokenizer.

        Raises: ValueError if its files are damaged. Weights are read only from safetensors, which cannot run code.
        """
        from transformers import AutoTokenizer

        home = self.folder / "language"
        self._check(path for path in self.card["files"] if path.startswith("language/"))
        try:
            tokenizer = AutoTokenizer.from_pretrained(home, local_files_only=True) if self.card["tokenizer"] else None
            attention = self.card["attn_implementation"]
            model, _ = load_causal_lm(home, device=device, dtype=dtype, attention=attention, safetensors_only=True)
        except Exception as error:  # a damaged config fails anywhere in transformers
            raise ValueError(
                f"the language model in {str(home)!r} cannot be loaded ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]})"
            ) from error
        return in_class(model, self.card["model_class"], tokenizer=tokenizer), tokenizer

    def vision(self) -> VisionEncoder:
        """The encoder with its preprocessing.

        Raises: ValueError if the lens was saved without its encoder, or the files are damaged.
        """
        self._need("vision")
        self._check(["vision.json", "vision.safetensors"])
        try:
            described = json.loads((self.folder / "vision.json").read_text())
            preprocessing = Preprocessing.from_json(described["preprocessing"])
            name, architecture = described["name"], described["architecture"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            told = error if isinstance(error, ValueError) else "expected name, architecture and preprocessing"
            raise ValueError(f"{str(self.folder / 'vision.json')!r} does not describe an encoder: {told}") from error
        module = encoder_config.build(architecture)
        try:
            state = load_file(self.folder / "vision.safetensors")
            module.to(dtype=next(iter(state.values())).dtype).load_state_dict(state)
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{str(self.folder / 'vision.safetensors')!r} does not fit vision.json: {error}"
            ) from error
        try:
            return VisionEncoder(module.requires_grad_(False), preprocessing=preprocessing, name=name)
        except Exception as error:  # timm and torch raise all kinds, assertions included
            raise ValueError(
                f"{str(self.folder / 'vision.json')!r} describes an encoder that cannot take a picture: {error}"
            ) from error

    def projection(self) -> nn.Linear:
        """The linear map.

        Raises: ValueError if the lens was saved without its projection, or the file is damaged.
        """
        self._need("projection")
        self._check(["projection.safetensors"])
        return load_linear(self.folder / "projection.safetensors").requires_grad_(False)

    def _need(self, part: str) -> None:
        if part in self.card["without"]:
            raise ValueError(
                f"the lens in {str(self.folder)!r} was saved without its {part}: pass one, as in "
                f"attach_vision(folder, {part}=...)"
            )

    def _check(self, paths: Iterable[str]) -> None:
        for path in paths:
            if self.card["files"].get(path) != digest_of_file(self.folder / path):
                raise ValueError(
                    f"{str(self.folder / path)!r} is damaged, or was changed after the lens was saved; copy it again, "
                    f"or save the lens again"
                )


def open_saved(folder: str | Path) -> SavedLens:
    """Read the card of a saved lens; its parts are loaded on demand.

    Raises:
        ValueError: a malformed `lens.json`, or one of another format version.
        FileNotFoundError: files are missing; the error lists them all.
    """
    folder = Path(folder)
    try:
        card = json.loads((folder / CARD).read_text())
        found = card["format"]
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
        raise ValueError(f"{str(folder / CARD)!r} is damaged or not the card of a lens") from error
    if found != FORMAT:
        raise ValueError(
            f"{str(folder)!r} is a lens of format {found!r} (lens_multimodal {card.get('lens_multimodal')}); this is "
            f"lens_multimodal {lens_multimodal.__version__}, which reads format {FORMAT}: install the release that "
            f"wrote it"
        )
    _check_card(card, folder)
    missing = [path for path in card["files"] if not (folder / path).is_file()]
    if missing:
        raise FileNotFoundError(f"the lens in {str(folder)!r} lacks {', '.join(missing)}; copy the whole folder")
    return SavedLens(folder=folder, card=card)


def _check_card(card: dict[str, Any], folder: Path) -> None:
    """Raise ValueError for entries that are missing, of another type or unknown, and for files outside the folder."""
    where = f"{str(folder / CARD)!r} is damaged"
    kinds: dict[str, type] = {
        "name": str, "model_class": str, "attn_implementation": str, "tokenizer": bool, "without": list, "files": dict,
    }  # fmt: skip
    if lacking := set(kinds) - set(card):
        raise ValueError(f"{where}: it lacks {', '.join(sorted(lacking))}")
    for key, kind in kinds.items():
        if not isinstance(card[key], kind):
            raise ValueError(f"{where}: {key} is {card[key]!r}, expected {kind.__name__}")
    if card["attn_implementation"] not in _ATTENTION:
        raise ValueError(
            f"{str(folder / CARD)!r} names an attention implementation {card['attn_implementation']!r}, expected "
            f"one of {', '.join(_ATTENTION)}"
        )
    if foreign := outside(card["files"]):
        raise ValueError(f"{where}: it names files outside its folder: {', '.join(foreign[:5])}")


def _check_free(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError for a folder that must not be replaced, ValueError for a name that is not UTF-8."""
    check_folder_name(folder)
    if folder.exists() and not (overwrite and is_saved_lens(folder)) and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(
            f"{str(folder)!r} exists"
            + (": pass overwrite=True to replace the lens in it" if is_saved_lens(folder) else " and holds no lens")
        )


def _linear(projection: Projection) -> nn.Linear:
    if not isinstance(projection.linear, nn.Linear):
        raise ValueError(
            f"only an nn.Linear can be saved as projection, the lens has a {type(projection.linear).__name__}: save it "
            f"yourself, save the lens with save_pretrained(folder, without=['projection']), and load it with "
            f"attach_vision(folder, projection=...)"
        )
    return projection.linear


def _describe(vision: VisionEncoder) -> dict[str, Any]:
    own = vision.preprocessing
    return {
        "name": vision.name,
        "architecture": encoder_config.describe(vision.module, height=own.height, width=own.width),
        "preprocessing": own.to_json(),
    }


def _weighed(folder: Path) -> list[str]:
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name not in ("README.md", CARD))
    return [path.relative_to(folder).as_posix() for path in paths]


def _readme(card: dict[str, Any], language_model: Any, vision: VisionEncoder) -> str:
    config = language_model.config
    precision = str(language_model.dtype).removeprefix("torch.")
    parts = [
        f"language model: {type(language_model).__name__}, {config.num_hidden_layers} layers, "
        f"d_model {card['d_model']}, {precision}, weights as trained",
        f"image encoder: {vision.name}, {vision.grid_h} x {vision.grid_w} image patches, d_vision {card['d_vision']}",
        f"projection: a linear map from d_vision {card['d_vision']} to d_model {card['d_model']}",
    ]
    left_out = f"\nSaved without: {', '.join(card['without'])}.\n" if card["without"] else ""
    return f"""---
library_name: lens_multimodal
tags: [interpretability, image-captioning]
---
# {card["name"]}

A language model that was trained on text alone, an image encoder, and one linear map between them (LiMBeR), saved by
lens_multimodal {card["lens_multimodal"]}.

    from lens_multimodal import attach_vision
    lens = attach_vision("path/to/this/folder")

- {(chr(10) + "- ").join(parts)}
{left_out}"""
