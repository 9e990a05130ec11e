"""Facts of the decoder families that the other tests use; `tests/decoders` measures those of many more."""

from lens_multimodal.transformer.families import FamilyFacts, architecture, facts
from tests.lenses import each_case
from tests.models import ARCHITECTURES, random_language_model, wrapped_model

EXPECTED = {
    "gpt-j": FamilyFacts(parallel_blocks=True, norm_before_mlp="ln1"),
    "gpt-2": FamilyFacts(),
    "pythia": FamilyFacts(parallel_blocks=True),
    "llama": FamilyFacts(),
    "opt": FamilyFacts(),
}
HOOKED_GPT_J = FamilyFacts(parallel_blocks=True)
"""A HookedTransformer gives each block of GPT-J a second norm, with the weights of the first."""


@each_case
def test_facts(layout, kind):
    model = wrapped_model(kind, random_language_model(layout))
    assert architecture(model) == ARCHITECTURES[layout]
    assert facts(model) == (HOOKED_GPT_J if kind == "hooked" else EXPECTED[layout])
