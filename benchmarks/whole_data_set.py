"""Runs over a whole data set: estimated and actual time and size, and a site of 10,000 pages.

    python -m benchmarks.whole_data_set

The tiny trio on its own scenes. Writes benchmarks/results/whole_data_set.txt.
"""

import argparse
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from benchmarks import machine
from lens_multimodal import VisionLens, attach_vision
from lens_multimodal.atlas import Atlas, build_atlas, estimate_atlas
from lens_multimodal.data import Scene, read_coco
from lens_multimodal.runs.plan import Estimate
from lens_multimodal.store import StoreSettings, estimate_activations, write_activations
from lens_multimodal.tiny import scenes_folder
from lens_multimodal.views.atlas import write_site

PAGES = 10_000
AT = ("blocks.5.mlp.hook_post", "blocks.5.hook_resid_post")
QUERIES = ("", "dog", "a", "l12n300", "no such word")
RESULTS = Path(__file__).parent / "results" / "whole_data_set.txt"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_data_set", description=__doc__)
    parser.add_argument("--limit", type=int, default=None, help="use this many scenes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lens = attach_vision()
    scenes = read_coco(scenes_folder())[: options.limit]
    with TemporaryDirectory() as folder:
        home = Path(folder)
        lines = [
            f"{machine.describe('cpu')['device']}; {len(scenes)} scenes, load average {os.getloadavg()[0]:.1f}",
            *_against_runs(lens, scenes, home),
            *_site(Atlas(home / "atlas"), scenes, home),
        ]
    print(*lines, sep="\n")
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _against_runs(lens: VisionLens, scenes: Sequence[Scene], home: Path) -> Iterator[str]:
    yield _compared(
        "atlas of all layers",
        home / "atlas",
        estimate_atlas(lens, scenes, out=home),
        lambda out: build_atlas(lens, scenes, out, progress=False),
    )
    settings = StoreSettings(at=AT)
    yield _compared(
        f"activations at {', '.join(AT)}",
        home / "store",
        estimate_activations(lens, scenes, settings, out=home),
        lambda out: write_activations(lens, scenes, out, settings, progress=False),
    )


def _compared(what: str, out: Path, planned: Estimate, run: Callable[[Path], object]) -> str:
    with _largest(out) as sizes:
        started = time.perf_counter()
        run(out)
        seconds = time.perf_counter() - started
    largest = max(*sizes, _size(out))
    return (
        f"{what}: estimated from {planned.measured} pictures; "
        f"{planned.seconds:.1f} s estimated, {seconds:.1f} s taken (ratio {planned.seconds / seconds:.2f}); "
        f"{planned.bytes / 1e6:.2f} MB estimated, {largest / 1e6:.2f} MB taken (ratio {planned.bytes / largest:.2f})"
    )


@contextmanager
def _largest(folder: Path) -> Iterator[list[int]]:
    """The sizes of a folder while something writes to it."""
    sizes, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            sizes.append(_size(folder))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield sizes
    finally:
        done.set()
        thread.join()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # it was removed after it was listed
            continue
    return total


def _site(atlas: Atlas, scenes: Sequence[Scene], home: Path) -> Iterator[str]:
    large = _repeated(atlas, home / "repeated", times=-(-PAGES // len(atlas.neurons)))
    started, worked = time.perf_counter(), time.process_time()
    index = write_site(large, scenes, n_neurons=PAGES, progress=False)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    pages = len(list((index.parent / "neuron").iterdir()))
    yield (
        f"site of {pages:,} neuron pages: {seconds:.1f} s ({worked:.1f} s of processor time), "
        f"{_size(index.parent) / 1e6:.1f} MB, of which the search loads "
        f"{(index.parent / 'neurons.js').stat().st_size / 1e3:.0f} KB"
    )
    yield f"in Chromium: {_in_browser(index)}"


def _repeated(atlas: Atlas, folder: Path, *, times: int) -> Atlas:
    """The atlas of a deeper model: the layers of this one several times."""
    shutil.copytree(atlas.folder, folder)
    for name in ("neurons", "patches", "neuron_concepts"):
        table = getattr(atlas, name)
        n_layers = table["layer"].max() + 1
        deeper = [table.assign(layer=table["layer"] + n * n_layers) for n in range(times)]
        pd.concat(deeper, ignore_index=True).to_parquet(folder / "tables" / f"{name}.parquet")
    return Atlas(folder)


def _in_browser(index: Path) -> str:
    try:
        from tests.browser import CHROMIUM, DRIVER, chromium
    except ImportError:
        return "not measured: selenium is not installed"
    if not (CHROMIUM and DRIVER):
        return "not measured: there is no Chromium"
    search = (
        "const query = document.getElementById('query'), started = performance.now(); query.value = arguments[0];"
        "query.dispatchEvent(new Event('input')); document.body.offsetHeight; return performance.now() - started"
    )
    with chromium(size="1000,800") as browser:
        browser.get(index.as_uri())
        loaded = browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        answers = [f"{query!r} {browser.execute_script(search, query):.0f} ms" for query in QUERIES]
    return f"the index is ready after {loaded:.0f} ms; a search is answered and drawn: {', '.join(answers)}"


if __name__ == "__main__":
    main()
