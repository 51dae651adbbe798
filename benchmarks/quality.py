"""Score restorations of benchmark folders by the published protocol.

    python -m benchmarks.quality --data DIR [DIR ...] [--rows main] [--seeds 0 1 2]

Writes NAME.json and NAME.md after every run; a run that is in there already is not done again.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, median

from benchmarks.records import Results, Run, code_version, describe_machine, in_fresh_process, table
from benchmarks.rows import ABLATIONS, DIFFUSION, MAIN, ROWS
from benchmarks.scores import Triple, measure
from napari_dkp.config import KERNEL_FAMILIES
from napari_dkp.device import resolve_device

# Columns: figure, unit that it is divided by, digits.
_COLUMNS = {
    "PSNR": ("PSNR", 1, 2),
    "aligned PSNR": ("aligned PSNR", 1, 2),
    "SSIM": ("SSIM", 1, 4),
    "kernel PSNR": ("kernel PSNR", 1, 1),
    "kernel NCC": ("kernel NCC", 1, 3),
    "seconds": ("seconds", 1, 1),
    "steps": ("steps", 1, 0),
    "kernel %": ("kernel share", 0.01, 1),
    "peak GiB": ("peak memory", 2**30, 2),
}
_GROUPS = {"main": MAIN, "ablations": ABLATIONS, "diffusion": DIFFUSION, "all": ROWS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run what is missing, write."""
    options = _parser().parse_args(arguments)
    device = str(resolve_device(options.device))
    results = Results(options.output, "quality", describe_machine([device]), tables)
    rows = [row for entry in options.rows for row in _GROUPS.get(entry, [entry])]
    # Rows outermost: what is quick is known for all images before what is slow begins.
    for row_name in dict.fromkeys(rows):
        row = ROWS[row_name]
        name = _name(row_name, options)
        for folder, image in _images(options.data, options.images):
            protocol = Triple.load(folder, image).protocol
            for seed in options.seeds[:1] if row.interpolate else options.seeds:
                settings = row.settings(
                    **protocol,
                    kernel_family=options.family,
                    iterations=options.iterations,
                    device=device,
                    seed=seed,
                )
                run: Run = {
                    "what": {"set": folder.name, "image": image, "row": name, "seed": seed},
                    "settings": None if row.interpolate else settings.to_dict(),
                    "commit": options.commit or code_version(),
                }
                label = f"{folder.name}  {image}  {name}  seed {seed}"
                if run in results:
                    print(f"{label}  is there", flush=True)
                    continue
                figures = in_fresh_process(measure, folder, image, row, settings)
                results.add({**run, "figures": figures})
                print(f"{label}  {figures['PSNR']:.2f} dB  {figures['seconds']:.1f} s", flush=True)


def tables(runs: Sequence[Run]) -> str:
    """Return Markdown: per set a summary, then all images."""
    return "\n".join(
        f"## {name}\n\n{_summary(chosen)}\n{_details(chosen)}"
        for name, chosen in _grouped(runs, "set").items()
    )


def over_images(runs: Sequence[Run], figure: str) -> float | None:
    """Return the mean over images of the median over seeds; None where a run has no such figure."""
    images = _grouped(runs, "image").values()
    values = [_over_seeds(chosen, figure) for chosen in images]
    found = [middle for middle, _ in filter(None, values)]
    return mean(found) if len(found) == len(values) else None


def _over_seeds(runs: Sequence[Run], figure: str) -> tuple[float, float] | None:
    """Return median and spread (largest less smallest) over the seeds of one image."""
    values = [run["figures"].get(figure) for run in runs]
    return None if None in values else (median(values), max(values) - min(values))


def _summary(runs: Sequence[Run]) -> str:
    lines = []
    for name, chosen in _grouped(runs, "row").items():
        counts = [str(len(_grouped(chosen, what))) for what in ("image", "seed")]
        lines.append([name, *counts, *_means(chosen)])
    return table(["row", "images", "seeds", *_COLUMNS], lines)


def _details(runs: Sequence[Run]) -> str:
    lines = []
    for name, chosen in _grouped(runs, "row").items():
        for image, seeds in sorted(_grouped(chosen, "image").items()):
            cells = [
                _cell(_over_seeds(seeds, figure), unit, digits, spread=len(seeds) > 1)
                for figure, unit, digits in _COLUMNS.values()
            ]
            lines.append([name, image, str(len(seeds)), *cells])
        lines.append([name, "**mean**", "", *_means(chosen)])
    return table(["row", "image", "seeds", *_COLUMNS], lines)


def _means(runs: Sequence[Run]) -> list[str]:
    cells = []
    for figure, unit, digits in _COLUMNS.values():
        value = over_images(runs, figure)
        cells.append(_cell(None if value is None else (value, 0.0), unit, digits))
    return cells


def _cell(value: tuple[float, float] | None, unit: float, digits: int, spread: bool = False) -> str:
    if value is None:
        return "–"
    middle, width = (f"{entry / unit:.{digits}f}" for entry in value)
    return f"{middle} ({width})" if spread else middle


def _grouped(runs: Sequence[Run], what: str) -> dict[str, list[Run]]:
    """Return the runs by a part of their identity; rows in their own order."""
    groups: dict[str, list[Run]] = {}
    order = {name: number for number, name in enumerate(ROWS)}

    def place(run: Run) -> int:
        return order.get(run["what"]["row"].partition(", ")[0], len(order))

    for run in sorted(runs, key=place):
        groups.setdefault(run["what"][what], []).append(run)
    return groups


def _name(row_name: str, options: argparse.Namespace) -> str:
    """Return what a row is called in the results: options that change it are part of that."""
    row = ROWS[row_name]
    changes = []
    if options.family != "auto" and row.family is None and not row.known_kernel:
        changes.append(options.family)
    if options.iterations is not None:
        changes.append(f"{options.iterations} steps")
    return row_name if row.interpolate else ", ".join([row_name, *changes])


def _images(folders: Sequence[Path], names: Sequence[str] | None) -> Iterator[tuple[Path, str]]:
    for folder in folders:
        found = sorted(path.name.removesuffix("_lr.png") for path in folder.glob("*_lr.png"))
        yield from ((folder, name) for name in names or found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--images", nargs="+", help="default: all in the folder")
    parser.add_argument("--rows", nargs="+", choices=[*_GROUPS, *ROWS], default=["main"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--family", choices=KERNEL_FAMILIES, default="auto")
    parser.add_argument("--iterations", type=int, help="instead of the preset's, for a trial")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--commit", help="name of the code where there is no git to ask")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/quality"), metavar="NAME"
    )
    return parser


if __name__ == "__main__":
    main()
