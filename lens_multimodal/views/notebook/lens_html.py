"""A lens at a glance: its parts and the images it holds."""

from lens_multimodal import transformer
from lens_multimodal.lens import VisionLens
from lens_multimodal.views.html import fragment
from lens_multimodal.views.notebook.shown import html_of


@html_of.register
def lens_html(lens: VisionLens) -> str:
    """The facts of `repr(lens)` as a table."""
    sizes = lens.shape
    parameter = next(lens.model.parameters(), None)
    where = "" if parameter is None else f"; {parameter.dtype} on {parameter.device}".replace("torch.", "")
    facts = [
        (
            "language model",
            f"{type(lens.model).__name__}, {sizes.n_layers} layers of d_model {sizes.d_model}, {sizes.n_heads} heads, "
            f"{sizes.n_neurons:,} MLP neurons, {sizes.d_vocab:,} tokens{where}",
        ),
        ("images", f"{lens.images.name}, {lens.images.summary}"),
        ("context", f"{sizes.n_ctx} positions"),
        ("weight processing", transformer.weight_processing(lens.model)),
        ("images held", f"{len(lens.virtual_tokens)}, {lens.virtual_tokens.nbytes / 2**20:.1f} MiB"),
    ]
    state = "a language model that takes images" if lens.is_attached else "detached: the model takes no images"
    return fragment("lens.html", lens=lens, state=state, facts=facts)
