"""The table of families says what the models say of themselves, and what they cannot say."""

from dataclasses import replace

from lens_multimodal.transformer.families import FAMILIES, FamilyFacts, architecture, facts, read_facts
from tests.lenses import each_case
from tests.models import ARCHITECTURES, LAYOUTS, random_language_model, wrapped_model


@each_case
def test_the_table_agrees_with_the_model(layout, kind):
    model = wrapped_model(kind, random_language_model(layout))
    assert architecture(model) == ARCHITECTURES[layout]
    # A HookedTransformer gives each block of GPT-J a second norm, with the weights of the first.
    tied = {"mlp_has_own_norm": True} if kind == "hooked" else {}
    assert replace(facts(model), prepends_bos=False, **tied) == read_facts(model)


def test_what_no_model_tells():
    with_bos = {layout for layout in LAYOUTS if FAMILIES.get(ARCHITECTURES[layout], FamilyFacts()).prepends_bos}
    assert with_bos == {"llama", "opt"}


def test_a_family_that_is_not_listed_is_read_off_the_model(monkeypatch):
    models = {layout: wrapped_model("bridge", random_language_model(layout)) for layout in ("gpt-j", "llama")}
    known = {layout: facts(model) for layout, model in models.items()}
    for layout in models:
        monkeypatch.delitem(FAMILIES, ARCHITECTURES[layout])
    assert facts(models["gpt-j"]) == known["gpt-j"]
    assert facts(models["llama"]) == replace(known["llama"], prepends_bos=False)


def test_capped_logits_are_read_off_the_configuration(monkeypatch):
    model = wrapped_model("bridge", random_language_model("pythia"))
    assert not facts(model).caps_logits
    monkeypatch.setattr(model.cfg, "output_logits_soft_cap", 30.0, raising=False)
    assert facts(model).caps_logits
