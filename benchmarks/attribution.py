"""What attribution costs, as ratios within one run: same machine, same model, same numbers.

    python -m benchmarks.attribution [--layers 8] [--d-model 512] [--pos 202] [--rounds 5] [--device cpu]

Against hand-written `transformers` with PyTorch hooks (time and peak memory), against captum one layer at a
time, and eight targets against one. Every result is compared before its time is believed. Rounds are interleaved and
the minimum is reported, since other work on the machine only ever adds. On a CPU it is the processor time of
one thread, on a GPU the time on the clock.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import GPTJConfig, GPTJForCausalLM

from benchmarks.memory import peak, reset_peak
from lens_multimodal.analysis import estimate_attribution, neuron_attribution, top_neurons

TARGET = 8


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    if options.peak:
        print(_peak_of(options))
        return
    torch.manual_seed(0)
    language_model = _language_model(options)
    model = _bridge(language_model)
    tokens = torch.randint(0, 1000, (1, options.pos), device=options.device)
    targets = [TARGET + i for i in range(8)]

    plain = _plain(language_model, tokens)
    _check("hand-written transformers", neuron_attribution(model, tokens, TARGET)[0], plain)
    contenders: dict[str, Callable[[], object]] = {
        "plain": lambda: _plain(language_model, tokens),
        "ours": lambda: neuron_attribution(model, tokens, TARGET),
        "top_neurons": lambda: top_neurons(model, tokens, TARGET),
        "ours_8_targets": lambda: neuron_attribution(model, tokens, targets),
        "forward": lambda: _forward(language_model, tokens),
    }
    captum = None if options.skip_captum else _captum(language_model, tokens)
    if captum is not None:
        _check("captum", captum(), plain)
        contenders["captum"] = captum
    best = _interleaved(contenders, options.rounds, options.device)
    report = {
        "machine": platform.processor() or platform.machine(),
        "device": options.device,
        "model": f"GPT-J layout, {options.layers} layers, d_model {options.d_model}, {options.pos} positions",
        "seconds": {name: round(value, 4) for name, value in best.items()},
        "attribution over hand-written": round(best["ours"] / best["plain"], 3),
        "top_neurons over hand-written": round(best["top_neurons"] / best["plain"], 3),
        "attribution over one forward": round(best["ours"] / best["forward"], 3),
        "8 targets over 1": round(best["ours_8_targets"] / best["ours"], 3),
    }
    if captum is not None:
        report["captum over attribution"] = round(best["captum"] / best["ours"], 2)
    report.update(_memory(options, model))
    print(json.dumps(report, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--pos", type=int, default=202)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip-captum", action="store_true")
    parser.add_argument("--peak", choices=["plain", "ours"], help=argparse.SUPPRESS)
    return parser.parse_args()


def _language_model(options: argparse.Namespace) -> GPTJForCausalLM:
    config = GPTJConfig(
        vocab_size=2000,
        n_positions=max(256, options.pos),
        n_embd=options.d_model,
        n_layer=options.layers,
        n_head=8,
        rotary_dim=options.d_model // 16,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPTJForCausalLM(config).eval().requires_grad_(False)
    return model.to(options.device)


def _bridge(language_model: GPTJForCausalLM) -> nn.Module:
    """Wraps a twin: wrapping changes a model in place."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    twin = GPTJForCausalLM(language_model.config).eval().requires_grad_(False)
    twin.load_state_dict(language_model.state_dict())
    twin = twin.to(language_model.device)
    return build_bridge_from_module(twin, "GPTJForCausalLM", hf_config=twin.config)


def _plain(model: GPTJForCausalLM, tokens: Tensor) -> Tensor:
    """What one would write by hand: hooks on fc_out's input, one forward, one autograd.grad."""
    kept: list[Tensor] = []
    handles = [
        block.mlp.fc_out.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
        for block in model.transformer.h
    ]
    embedded = model.transformer.wte(tokens).requires_grad_()
    try:
        logits = model(inputs_embeds=embedded, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(logits[0, -1, TARGET], kept)
    return torch.stack([(a.detach() * g)[0] for a, g in zip(kept, gradients, strict=True)])


def _forward(model: GPTJForCausalLM, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def _captum(model: GPTJForCausalLM, tokens: Tensor) -> Callable[[], Tensor] | None:
    """captum's layer attribution, one layer after another; None where captum is not installed."""
    try:
        from captum.attr import LayerGradientXActivation
    except ImportError:
        return None

    def last_logits(embedded: Tensor) -> Tensor:
        return model(inputs_embeds=embedded, use_cache=False).logits[:, -1]

    def run() -> Tensor:
        embedded = model.transformer.wte(tokens).requires_grad_()
        parts = [
            LayerGradientXActivation(last_logits, block.mlp.fc_out).attribute(
                embedded, target=TARGET, attribute_to_layer_input=True
            )
            for block in model.transformer.h
        ]
        return torch.stack([part[0].detach() for part in parts])

    return run


def _interleaved(contenders: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, float]:
    clock = time.process_time if device == "cpu" else time.perf_counter
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(rounds):
        for name, run in contenders.items():
            _synchronise(device)
            start = clock()
            run()
            _synchronise(device)
            best[name] = min(best[name], clock() - start)
    return best


def _synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _check(name: str, found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=lambda text: f"{name}: {text}")


def _memory(options: argparse.Namespace, model: nn.Module) -> dict[str, object]:
    """Peak memory beyond the loaded model, each way in a process of its own."""
    estimate = estimate_attribution(model, options.pos)
    arguments = [
        f"--{name.replace('_', '-')}={getattr(options, name)}" for name in ("layers", "d_model", "pos", "device")
    ]
    peaks = {}
    for way in ("plain", "ours"):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.attribution", *arguments, f"--peak={way}"],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks[way] = int(done.stdout.strip().splitlines()[-1])
    plain, ours = peaks["plain"], peaks["ours"]
    return {
        "peak MB beyond the model: hand-written": round(plain / 2**20, 1),
        "peak MB beyond the model: attribution": round(ours / 2**20, 1),
        "peak memory over hand-written": round(ours / plain, 3),
        "estimated MB before the run": round(estimate.peak / 2**20, 1),
    }


def _peak_of(options: argparse.Namespace) -> int:
    """Bytes at the peak of one way in this process, beyond what was there before it."""
    torch.set_num_threads(1)
    language_model = _language_model(options)
    tokens = torch.randint(0, 1000, (1, options.pos), device=options.device)
    if options.peak == "plain":
        before = reset_peak(options.device)
        _plain(language_model, tokens)
    else:
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        model = build_bridge_from_module(language_model, "GPTJForCausalLM", hf_config=language_model.config)
        before = reset_peak(options.device)
        neuron_attribution(model, tokens, TARGET)
    return peak(options.device) - before


if __name__ == "__main__":
    main()
