"""Figures as files: JSON for machines, a table for the terminal, plotly for people."""

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.figure import OURS, Figure


def as_json(figures: list[Figure], *, meta: dict[str, Any], ceilings: dict[str, float]) -> dict[str, Any]:
    """Everything that was measured, each figure with its floor in seconds on this machine."""
    described = []
    for figure in figures:
        entry = figure.to_json()
        if figure.floor is not None and OURS in figure.timings:
            ours = figure.timings[OURS].median
            entry["floor_seconds"] = figure.floor.seconds(ceilings)
            entry["over_floor"] = ours / entry["floor_seconds"]
            entry["share_of_matmul_ceiling"] = figure.floor.flops / ours / ceilings["matmul FLOP/s"]
        if OURS in figure.timings:
            entry["over_rivals"] = {
                name: figure.over(name)
                for name in figure.timings
                if name != OURS and not figure.name.startswith("growth")
            }
        described.append(entry)
    return {"meta": meta, "ceilings": ceilings, "figures": described}


def as_table(result: dict[str, Any]) -> str:
    """One block for each figure, as text."""
    lines = [f"{result['meta']['device']}, {result['meta']['shape']} in {result['meta']['dtype']}"]
    lines += [f"  measured ceilings: {_ceilings(result['ceilings'])}"]
    for figure in result["figures"]:
        lines += ["", f"{figure['name']}: {figure['work']}"]
        ours = figure["timings"].get(OURS, {}).get("median")
        for name, timing in figure["timings"].items():
            ratio = f"{ours / timing['median']:6.2f} ours over it" if ours and name != OURS else ""
            lines.append(f"  {name:<46}{_time(timing['median']):>12}  {ratio}")
        if "floor_seconds" in figure:
            share = figure["share_of_matmul_ceiling"]
            floor = _time(figure["floor_seconds"])
            lines.append(f"  {'floor':<46}{floor:>12}  {figure['over_floor']:6.2f} ours over it; {share:.0%} of matmul")
        for name, reason in figure["absent"].items():
            lines.append(f"  {name:<46}{'absent':>12}  {reason[:70]}")
        for aim in figure["aims"]:
            sign = "<=" if aim["at_most"] else ">="
            verdict = "reached" if aim["reached"] else "NOT reached"
            lines.append(f"  aim: {aim['text']} {sign} {aim['limit']}: {aim['value']} ({verdict})")
        for name, value in figure["more"].items():
            text = _text(value)
            lines.append(f"  {name}: {text if len(text) < 90 else text[:87] + '...'}")
    return "\n".join(lines)


def as_figure(result: dict[str, Any]) -> go.Figure:
    """Medians side by side, one panel for each figure that has timings; the floor is a line."""
    shown = [figure for figure in result["figures"] if figure["timings"]]
    plot = make_subplots(
        rows=max(1, len(shown)),
        cols=1,
        subplot_titles=[f"{f['name']}: {f['work']}" for f in shown],
        vertical_spacing=min(0.4 / max(1, len(shown)), 0.1),
    )
    for row, figure in enumerate(shown, start=1):
        timings = figure["timings"]
        names = list(timings)[::-1]
        medians = [timings[name]["median"] * 1e3 for name in names]
        above = [timings[name]["highest"] * 1e3 - m for name, m in zip(names, medians, strict=True)]
        below = [m - timings[name]["lowest"] * 1e3 for name, m in zip(names, medians, strict=True)]
        colours = ["#4c6ef5" if name == OURS else "#adb5bd" for name in names]
        bars = go.Bar(
            x=medians,
            y=names,
            orientation="h",
            marker_color=colours,
            error_x={"type": "data", "array": above, "arrayminus": below, "thickness": 1},
            hovertemplate="%{y}: %{x:.4g} ms<extra></extra>",
            showlegend=False,
        )
        plot.add_trace(bars, row=row, col=1)
        if "floor_seconds" in figure:
            plot.add_vline(
                x=figure["floor_seconds"] * 1e3, line_dash="dot", line_color="#e8590c", row=row, col=1,
                annotation_text="floor", annotation_position="top",
            )  # fmt: skip
        plot.update_xaxes(title_text="milliseconds, median; whiskers: all rounds", row=row, col=1)
    meta = result["meta"]
    plot.update_layout(
        title=f"lens_multimodal, shape {meta['shape']} in {meta['dtype']}, {meta['device']}, {meta['date'][:10]}",
        height=140 + 240 * len(shown),
        template="plotly_white",
        margin={"l": 330},
    )
    return plot


def write(result: dict[str, Any], folder: Path, name: str) -> list[Path]:
    """`name.json`, `name.txt` and `name.html` in a folder; the page fetches plotly's script when it is opened."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{ending}" for ending in ("json", "txt", "html")]
    paths[0].write_text(json.dumps(result, indent=1) + "\n")
    paths[1].write_text(as_table(result) + "\n")
    as_figure(result).write_html(paths[2], include_plotlyjs="cdn")
    return paths


def _text(value: Any) -> str:
    """Four digits of every number, with related values on one line."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(f"({_text(one)})" if isinstance(one, (list, tuple)) else _text(one) for one in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _ceilings(ceilings: dict[str, float]) -> str:
    return f"{ceilings['matmul FLOP/s'] / 1e12:.3g} TFLOP/s, {ceilings['copy bytes/s'] / 1e9:.3g} GB/s"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
