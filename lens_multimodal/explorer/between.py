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
        patches: image patches by number, row after row; the same ones in both pictures.
    Raises: as `Workbench.why`; ValueError for layers or patches that do not exist, or none.
    """
    with bench.alone():
        images = bench.pictures.get(clean), bench.pictures.get(corrupted)
        giving, receiving = (bench.prompt(image, text, before) for image in images)
        hooks = _patching(bench, giving, layers, patches)
        logits = [bench.next_logits(giving), bench.next_logits(receiving), bench.next_logits(receiving, hooks)]
        return Patched(
            caption=bench.caption(bench.prompt(images[1], text), hooks),
            word=_in_runs(bench, target, logits),
            other=_in_runs(bench, int(logits[1].argmax()), logits),
        )


def sweep_layer(
    bench: Workbench, clean: str, corrupted: str, text: str, before: Sequence[int], target: int, *, layer: int
) -> SweptLayer:
    """Patch each image patch alone into one layer: which patches restore the clean picture's word?

    The target is the logit of the word minus that of the corrupted run's likeliest token; the word's own logit if
    these are the same.

    Raises: as `patch_between`.
    """
    with bench.alone():
        giving, receiving = (bench.prompt(bench.pictures.get(name), text, before) for name in (clean, corrupted))
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
            effect=swept.effect.reshape(receiving.grid).tolist(),
            clean=swept.clean,
            corrupted=swept.corrupted,
        )


def _patching(
    bench: Workbench, giving: ImagePrompt, layers: Sequence[int], patches: Sequence[int]
) -> list[transformer.NamedHook]:
    at: Any = giving.image_pos[0].tolist()
    outside = [patch for patch in patches if not 0 <= patch < len(at)]
    if outside:
        raise ValueError(f"image patch {outside[0]} is outside the picture's {len(at)} patches (0 to {len(at) - 1})")
    if not patches:
        raise ValueError("choose at least one image patch")
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
