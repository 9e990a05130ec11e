"""Threads on one lens: each gets what it would get alone."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lens_multimodal import transformer
from lens_multimodal.analysis import effect_of, top_neurons
from lens_multimodal.hooks import ablate
from lens_multimodal.transformer.one_at_a_time import one_at_a_time
from tests.lenses import make_lens, picture, random_prompt
from tests.models import MODEL_CLASSES


@pytest.mark.parametrize("kind", MODEL_CLASSES)
def test_analyses_in_threads_equal_those_alone(kind, tokenizers):
    lens = make_lens("gpt-j", kind, tokenizer=tokenizers("gpt-j"))
    prompts = [random_prompt(lens, [6, -4], seed=seed) for seed in range(3)]

    def found(index: int) -> tuple[object, ...]:
        prompt = prompts[index]
        with torch.no_grad():
            logits = lens.logits(prompt)
        with torch.no_grad(), transformer.capture(lens.model, [transformer.mlp_post(1)]) as kept:
            lens.logits(prompt)
        neurons = top_neurons(lens.model, prompt.tokens, 40, positions=prompt.image_pos[0], top_k=3)
        effect = effect_of(lens.model, prompt.tokens, ablate(lens.model, [(index, 3)]), 40)
        return (
            logits.tolist(),
            kept[transformer.mlp_post(1)].tolist(),
            neurons[["layer", "neuron", "attribution"]].to_numpy().tolist(),
            effect.value_after.tolist(),
            lens.caption(picture(index)),
        )

    alone = [found(index) for index in range(3)]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(found, [0, 1, 2] * 4))
    assert together == alone * 4


def test_a_thread_waits_for_the_hooks_of_another():
    lens = make_lens("gpt-j", "bridge")
    prompt = random_prompt(lens, [3, -2])
    with torch.no_grad():
        plain = lens.logits(prompt)
    results: list[torch.Tensor] = []

    def other() -> None:
        with torch.no_grad():
            results.append(lens.logits(prompt))

    with transformer.fired_hooks(lens.model, ablate(lens.model, [(0, n) for n in range(20)])), torch.no_grad():
        edited = lens.logits(prompt)  # the same thread may go on
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(600)
    assert not torch.equal(edited, plain)
    assert torch.equal(results[0], plain)


def test_models_do_not_wait_for_each_other():
    first, second = make_lens("gpt-j", "bridge"), make_lens("gpt-j", "bridge")

    def entered(model: torch.nn.Module) -> Callable[[], bool]:
        def enter() -> bool:
            with one_at_a_time(model):
                return True

        return enter

    with one_at_a_time(first.model), ThreadPoolExecutor(1) as pool:
        assert pool.submit(entered(second.model)).result(timeout=600)
