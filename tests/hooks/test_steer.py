import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.hooks import ablate, add_vector, scale, set_to, steer, write_vector
from tests.hooks import reference
from tests.hooks.reference import CASES, assert_close, assert_different, input_edited, wrapped

cases = pytest.mark.parametrize(("layout", "kind"), CASES)
NEURONS = [(1, 4), (1, 9)]
SETTINGS = dict(max_new_tokens=5, do_sample=False, stop_at_eos=False, return_type="tokens", verbose=False)


def run(model, prompt, hooks):
    with torch.no_grad(), transformer.running_on(model, "hooked"), transformer.fired_hooks(model, hooks):
        return transformer.logits_of(model, prompt)


def changed_by(change, positions):
    def edit(activation):
        part = activation[:, positions][..., [4, 9]]
        activation[:, torch.arange(9)[positions][:, None], torch.tensor([4, 9])] = change(part)
        return activation

    return edit


@cases
@pytest.mark.parametrize(
    ("builder", "change"),
    [
        (lambda model, where: steer(model, NEURONS, amount=2.5, positions=where), lambda x: x + 2.5),
        (lambda model, where: scale(model, NEURONS, factor=-3.0, positions=where), lambda x: -3 * x),
        (lambda model, where: set_to(model, NEURONS, value=1.5, positions=where), lambda x: 0 * x + 1.5),
    ],
    ids=["steer", "scale", "set_to"],
)
def test_neurons(layout, kind, builder, change):
    model, prompt = wrapped(layout, kind), reference.tokens()
    for where in (slice(2, 6), slice(None)):
        result = run(model, prompt, builder(model, where))
        edit = input_edited(reference.mlp_down(layout, 1), changed_by(change, where))
        assert_close(result, reference.logits(layout, prompt, edit))
        assert_different(result, reference.logits(layout, prompt))


@cases
@pytest.mark.parametrize("adding", [True, False], ids=["add", "write"])
def test_vectors(layout, kind, adding):
    model, prompt, generator = wrapped(layout, kind), reference.tokens(), torch.Generator().manual_seed(0)
    builder = add_vector if adding else write_vector
    for vector, positions in (
        (torch.randn(24, generator=generator), None),
        (torch.randn(24, generator=generator), [3, 1]),
        (torch.randn(2, 24, generator=generator), [3, 1]),
    ):
        for layer in (0, 2):

            def edit(resid, vector=vector, positions=positions):
                where = slice(None) if positions is None else positions
                resid[:, where] = vector.double() + (resid[:, where] if adding else 0)
                return resid

            result = run(model, prompt, builder(model, vector, layer=layer, positions=positions))
            expected = reference.logits(layout, prompt, input_edited(reference.block(layout, layer), edit))
            assert_close(result, expected)
            assert_different(result, reference.logits(layout, prompt))


@cases
def test_steering_a_generation(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens(seed=3)
    vector = 3 * torch.randn(24, generator=torch.Generator().manual_seed(1)).double()

    def edits(where):
        def edit(resid):
            resid[:, where] = resid[:, where] + vector
            return resid

        return lambda: [input_edited(reference.block(layout, 1), edit)]

    for positions, where in ((None, slice(None)), ([2, 8], [2, 8]), (slice(9, None), slice(9, None))):
        with model.hooks(fwd_hooks=add_vector(model, vector, layer=1, positions=positions)):
            generated = model.generate(prompt, **SETTINGS)
        assert torch.equal(generated, reference.greedy(layout, prompt, 5, edits(where)))


@cases
def test_neutral_settings_change_nothing(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    neutral = [
        *steer(model, NEURONS, amount=0.0),
        *scale(model, NEURONS, factor=1.0),
        *add_vector(model, torch.zeros(24), layer=1),
    ]
    assert torch.equal(run(model, prompt, neutral), run(model, prompt, []))
    assert torch.equal(
        run(model, prompt, scale(model, NEURONS, factor=0.0)), run(model, prompt, ablate(model, NEURONS))
    )


def test_hooks_at_one_place_run_in_the_order_given_and_outer_blocks_first():
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens()
    five = set_to(model, NEURONS, value=5.0)
    add, double = steer(model, NEURONS, amount=2.0), scale(model, NEURONS, factor=2.0)
    fourteen, twelve = (run(model, prompt, set_to(model, NEURONS, value=value)) for value in (14.0, 12.0))
    assert torch.equal(run(model, prompt, [*five, *add, *double]), fourteen)
    assert torch.equal(run(model, prompt, [*five, *double, *add]), twelve)
    with model.hooks(fwd_hooks=five), model.hooks(fwd_hooks=add):
        assert torch.equal(run(model, prompt, double), fourteen)


@cases
def test_hooks_are_gone_after_an_exception_and_tokens_unchanged(layout, kind):
    model, prompt = wrapped(layout, kind), reference.tokens()
    before, tokens = run(model, prompt, []), prompt.clone()
    assert_different(run(model, prompt, set_to(model, NEURONS, value=9.0)), before)

    def fail(_activation, hook):
        raise KeyError(hook.name)

    with pytest.raises(KeyError):
        run(model, prompt, [*set_to(model, NEURONS, value=9.0), (transformer.mlp_post(2), fail)])
    assert torch.equal(run(model, prompt, []), before)
    assert torch.equal(prompt, tokens)


def test_gradients_flow_through_every_editor():
    model, prompt = wrapped("gpt-j", "bridge"), reference.tokens()
    vector = torch.randn(24, dtype=torch.float64, requires_grad=True)
    hooks = [*add_vector(model, vector, layer=1, positions=[2]), *scale(model, NEURONS, factor=2.0, positions=[3])]
    with model.hooks(fwd_hooks=hooks):
        transformer.logits_of(model, prompt)[:, -1, 5].sum().backward()
    step = 1e-3  # GPT-J's attention scores are float32, whatever the model is
    direction = torch.randn(24, dtype=torch.float64)

    def value(at):
        hooks = [*add_vector(model, at, layer=1, positions=[2]), *scale(model, NEURONS, factor=2.0, positions=[3])]
        return run(model, prompt, hooks)[:, -1, 5].sum()

    slope = (value(vector.detach() + step * direction) - value(vector.detach() - step * direction)) / (2 * step)
    torch.testing.assert_close(vector.grad @ direction, slope, rtol=2e-3, atol=1e-6)
    model.zero_grad()


def test_wrong_vectors_are_named():
    model = wrapped("gpt-j", "bridge")
    with pytest.raises(ValueError, match=r"add_vector\(vector=.*\[24\].*\[25\]"):
        add_vector(model, torch.zeros(25), layer=0)
    with pytest.raises(ValueError, match=r"write_vector\(vector=.* 2 vectors .* 3 positions"):
        write_vector(model, torch.zeros(2, 24), layer=0, positions=[0, 1, 2])
    with pytest.raises(ValueError, match=r"write_vector\(vector=.* 2 vectors"):
        write_vector(model, torch.zeros(2, 24), layer=0)
    with pytest.raises(ValueError, match=r"write_vector\(layer=.* layer 3 .* 3 layers"):
        write_vector(model, torch.zeros(24), layer=3)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("amount", [None, "2", True, [1.0], torch.ones(2)])
def test_amounts_that_are_not_numbers(amount):
    model = wrapped("gpt-j", "bridge")
    for build, name in ((steer, "amount"), (scale, "factor"), (set_to, "value")):
        with pytest.raises(TypeError, match=rf"{build.__name__}\({name}=\.\.\.\)"):
            build(model, NEURONS, **{name: amount})
