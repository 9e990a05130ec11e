"""Measure the library, its rivals and the floor.

    python -m benchmarks                                              # small shapes on one CPU thread
    python -m benchmarks --device cuda --shape gpt-j                  # GPT-J-6B and BEiT-large, bf16
    python -m benchmarks --shape slice --only attribution             # 4 layers of GPT-J-6B

Writes JSON, a table and a plotly page under benchmarks/results/.
"""

import argparse
import traceback
import warnings
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks import machine, report
from benchmarks.figure import Figure
from benchmarks.figures import FIGURES
from benchmarks.workbench import SHAPES, Workbench

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module="captum")
    dtype = getattr(torch, options.dtype or ("bfloat16" if options.device != "cpu" else "float32"))
    ceilings = machine.ceilings(options.device, dtype)
    bench = Workbench(
        shape=options.shape,
        device=options.device,
        dtype=dtype,
        rounds=options.rounds,
        n_stream=options.pictures,
        ceilings=ceilings,
    )
    meta = {
        **machine.describe(options.device),
        "shape": options.shape,
        "dtype": str(dtype).removeprefix("torch."),
        "command": _command(options),
    }
    stem = f"{options.shape}_{meta['dtype']}_{'cpu' if options.device == 'cpu' else 'gpu'}"
    if options.only:
        stem += "_" + "_".join(options.only)
    figures: list[Figure] = []
    failed = []
    for name in options.only or FIGURES:
        try:
            found = FIGURES[name](bench)
        except Exception:  # one failed figure must not lose the others
            traceback.print_exc()
            failed.append(name)
            continue
        print(report.as_table(report.as_json(found, meta=meta, ceilings=ceilings)).split("\n", 2)[-1], flush=True)
        figures += found
        paths = report.write(report.as_json(figures, meta=meta, ceilings=ceilings), options.out, stem)
    if figures:
        print(*paths, sep="\n")
    if failed:
        raise SystemExit(f"could not be measured: {', '.join(failed)}")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: bf16 on a GPU")
    parser.add_argument("--only", action="append", choices=list(FIGURES), metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=1000, help="length of the stream")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def _command(options: argparse.Namespace) -> str:
    chosen = [f"--device {options.device}", f"--shape {options.shape}"]
    chosen += [f"--dtype {options.dtype}"] if options.dtype else []
    chosen += [f"--only {name}" for name in options.only or []]
    return " ".join(["python -m benchmarks", *chosen, f"--rounds {options.rounds} --pictures {options.pictures}"])


if __name__ == "__main__":
    main()
