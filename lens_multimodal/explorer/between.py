"""Activation patching between two pictures: clean into corrupted, at image patches."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lens_multimodal import transformer
from lens_multimodal.analysis.patching.sweeps import act_patch_resid_pre
from lens_multimodal.arguments.targets import Logit, LogitDifference
from lens_multimodal.arguments.units import read_layers
from lens_multimodal.explorer.answers import InRuns, Patched, SweptLayer
from lens_multimodal.explorer.workbench import Workbench
from lens_multimodal.hooks import patch_resid_pre, record
from lens_multimodal.prompt.image_prompt import ImagePrompt


def patch_between(
    bench: Workbench,
    clean: str,
    corrupted: str,
    text: str,
    before: Sequence[int],
    target: int,
    *,
    layers: Sequence[int],
    patches: Sequence[int],
) -> Patched:
    """Copy the residual stream at some image patches of the clean picture into the run on the corrupted one.

    Args:
        clean, corrupted: ids of the picture copied from and of the picture copied to.
        before: tokens of the caption before the word in question.
        target: the word, usually of the clean picture's caption.
        layers: those whose input is replaced.
        patches: image positions by number within the image; the same ones in both pictures.
    Raises: as `Workbench.why`; ValueError for layers or patches that do not exist, or none, and for two pictures that
        are read in different grids.
    """
    with bench.alone():
        giving, receiving = _alike(bench, clean, corrupted, text, before)
        hooks = _patching(bench, giving, layers, patches)
        logits = [bench.next_logits(giving), bench.next_logits(receiving), bench.next_logits(receiving, hooks)]
        return Patched(
            caption=bench.caption(bench.prompt(bench.pictures.get(corrupted), text), hooks),
            word=_in_runs(bench, target, logits),
            other=_in_runs(bench, int(logits[1].argmax()), logits),
        )


def sweep_layer(
    bench: Workbench, clean: str, corrupted: str, text: str, before: Sequence[int], target: int, *, layer: int
) -> SweptLayer:
    """Patch each image position alone into one layer: which ones restore the clean picture's word?

    The target is the logit of the word minus that of the corrupted run's likeliest token; the word's own logit if
    these are the same.

    Raises: as `patch_between`.
    """
    with bench.alone():
        giving, receiving = _alike(bench, clean, corrupted, text, before)
        there = bench.next_logits(receiving)
        word, other = bench.word(target, there), bench.word(int(there.argmax()), there)
        same = word.token_id == other.token_id
        swept = act_patch_resid_pre(
            bench.lens.model,
            giving.tokens,
            receiving.tokens,
            Logit(token=target) if same else LogitDifference(token=target, other=other.token_id),
            layers=[layer],
            positions=receiving.image_pos[0],
        )
        return SweptLayer(
            layer=layer,
            label=f"logit of {word.text!r}" if same else f"logit of {word.text!r} minus {other.text!r}",
            effect=swept.effect.flatten().tolist(),
            clean=swept.clean,
            corrupted=swept.corrupted,
        )


def _alike(
    bench: Workbench, clean: str, corrupted: str, text: str, before: Sequence[int]
) -> tuple[ImagePrompt, ImagePrompt]:
    """Both prompts. Raises: ValueError unless each position shows the same patch of both pictures."""
    images = [bench.pictures.get(name) for name in (clean, corrupted)]
    places = [
        [(grid.grid_h, grid.grid_w, grid.indices) for grid in image.layout.grids] or len(image) for image in images
    ]
    if places[0] != places[1]:
        grids = (f"{image.size[0]} x {image.size[1]} pixels as {image.layout.shapes}" for image in images if image.size)
        raise ValueError(
            f"this model reads the two pictures in different grids of image patches ({'; '.join(grids)}), so their "
            f"positions do not correspond: choose two pictures of the same shape"
        )
    giving, receiving = (bench.prompt(image, text, before) for image in images)
    return giving, receiving


def _patching(
    bench: Workbench, giving: ImagePrompt, layers: Sequence[int], patches: Sequence[int]
) -> list[transformer.NamedHook]:
    at: Any = giving.image_pos[0].tolist()
    outside = [patch for patch in patches if not 0 <= patch < len(at)]
    if outside:
        raise ValueError(f"image position {outside[0]} is outside the picture's {len(at)} (0 to {len(at) - 1})")
    if not patches:
        raise ValueError("choose at least one image position")
    known = read_layers(bench.lens.model, list(layers))
    run = record(bench.lens.model, giving.tokens, [transformer.resid_pre(layer) for layer in known])
    return patch_resid_pre(bench.lens.model, known, run=run, positions=[at[patch] for patch in patches])


def _in_runs(bench: Workbench, token: int, logits: Sequence[Float[Tensor, " d_vocab"]]) -> InRuns:
    clean, corrupted, patched = (bench.word(token, run) for run in logits)
    return InRuns(
        token_id=token,
        text=clean.text,
        clean=clean.probability,
        corrupted=corrupted.probability,
        patched=patched.probability,
    )
