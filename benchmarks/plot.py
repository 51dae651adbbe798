"""Draw results: PSNR against time per row, time per pixel against image size.

    python -m benchmarks.plot benchmarks/results/*.json

Writes an SVG of the same name per file.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks.quality import over_images
from benchmarks.records import Run


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, draw, save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="JSON")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), metavar="DIR")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for path in options.results:
        results = json.loads(path.read_text())
        figure = {"quality": quality, "speed": speed}[results["kind"]](results["runs"])
        # The same results give the same file.
        with mpl.rc_context({"svg.hashsalt": path.stem}):
            figure.savefig(options.output / f"{path.stem}.svg", metadata={"Date": None})


def quality(runs: Sequence[Run]) -> Figure:
    """Draw, per set, PSNR against seconds, means over images; hollow: after alignment."""
    sets = list(dict.fromkeys(run["what"]["set"] for run in runs))
    rows = list(dict.fromkeys(run["what"]["row"] for run in runs))
    figure, panels = _panels(len(sets))
    for axes, name in zip(panels, sets, strict=True):
        for number, row in enumerate(rows):
            here = {"set": name, "row": row}
            chosen = [run for run in runs if here.items() <= run["what"].items()]
            if chosen:
                _draw_row(axes, row, chosen, f"C{number}", _MARKERS[number // 10 % len(_MARKERS)])
        axes.set(title=name, xscale="log", xlabel="seconds per image", ylabel="PSNR, dB")
        _plain_ticks(axes.xaxis)
    # A set need not have every row: one legend for what any of them shows.
    entries = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(entries.values(), entries.keys(), loc="outside right upper", frameon=False)
    return figure


# Colours repeat after ten rows.
_MARKERS = ("o", "s", "^")


def _draw_row(axes: Axes, row: str, runs: Sequence[Run], colour: str, marker: str) -> None:
    time, raw, aligned = (over_images(runs, name) for name in ("seconds", "PSNR", "aligned PSNR"))
    if time is None or raw is None or aligned is None:
        return
    if over_images(runs, "steps") == 0:  # takes no time worth the name
        axes.axhline(raw, color=colour, linestyle="--", label=row)
        return
    axes.plot([time, time], [raw, aligned], color=colour, linewidth=1)
    axes.plot(time, aligned, marker, color=colour, fillstyle="none")
    axes.plot(time, raw, marker, color=colour, label=row)


def speed(runs: Sequence[Run]) -> Figure:
    """Draw nanoseconds per HR pixel and step against the side of the image."""
    figure, (axes,) = _panels(1)
    lines: dict[str, dict[int, float]] = {}
    for run in runs:
        what, figures = run["what"], run["figures"]
        label = f"{what['device']}, {figures['precision']}, {what['preset']}"
        lines.setdefault(label, {})[what["side"]] = figures["ns per pixel"]
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points.items()), strict=True), "o-", label=label)
    sides = sorted({side for points in lines.values() for side in points})
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="HR side, pixels", ylabel="ns per HR pixel and step")
    axes.set_xticks(sides, [str(side) for side in sides])
    axes.set_xticks([], minor=True)
    _plain_ticks(axes.yaxis)
    axes.legend(frameon=False)
    return figure


def _plain_ticks(axis: Axis) -> None:
    """Mark a logarithmic axis at 1, 2, 5, 10, ..., with room for some of them."""
    low, high = axis.get_view_interval()
    axis.set_view_interval(low / 2, 2 * high, ignore=True)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(1.5 + 4.5 * count, 3.6), layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


if __name__ == "__main__":
    main()
