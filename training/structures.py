"""Pictures like those of a fluorescence microscope, drawn by chance: no data set needed."""

import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree


def draw_structures(generator: Generator, size: int = 256) -> np.ndarray:
    """Draw a sharp picture of one to three kinds of structure on a dark ground.

    Returns
    -------
    float32, shape (size, size), from 0 to 1.
    """
    kinds = generator.choice(list(KINDS), size=generator.integers(1, 4), replace=False)
    picture = np.zeros((size, size))
    for kind in kinds:
        layer = KINDS[kind](generator, size)
        picture += generator.uniform(0.2, 1) * layer / max(layer.max(), 1e-9)
    ground = gaussian_filter(generator.standard_normal((size, size)), size / 8, mode="wrap")
    picture += (
        generator.uniform(0, 0.15) * np.ptp(picture) * (ground - ground.min()) / np.ptp(ground)
    )
    picture = picture / picture.max()
    return (picture ** generator.uniform(0.5, 1.2)).astype(np.float32)


def _filaments(generator: Generator, size: int) -> np.ndarray:
    """Draw fibres that bend a little along their way, as of actin or tubulin."""
    n_fibres, n_points = generator.integers(5, 80), 4 * size
    turns = generator.normal(0, generator.uniform(0.002, 0.03), (n_fibres, n_points))
    main = generator.uniform(0, np.pi)  # they often run the same way
    angles = generator.normal(main, generator.uniform(0.1, 2), (n_fibres, 1)) + turns.cumsum(1)
    start = generator.uniform(-0.2, 1.2, (n_fibres, 2)) * size
    rows = start[:, :1] + (0.5 * np.sin(angles)).cumsum(1)
    columns = start[:, 1:] + (0.5 * np.cos(angles)).cumsum(1)
    brightness = np.broadcast_to(generator.lognormal(0, 0.5, (n_fibres, 1)), rows.shape)
    return _splat(rows, columns, brightness, size, generator.uniform(0.5, 1.6))


def _puncta(generator: Generator, size: int) -> np.ndarray:
    """Draw bright points of many brightnesses, as of vesicles or beads."""
    n_points = int(np.exp(generator.uniform(np.log(20), np.log(2000))))
    rows, columns = generator.uniform(0, size, (2, n_points))
    brightness = generator.lognormal(0, 0.8, n_points)
    return _splat(rows, columns, brightness, size, generator.uniform(0.5, 2.5))


def _nuclei(generator: Generator, size: int) -> np.ndarray:
    """Draw textured ellipses with smooth rims."""
    rows, columns = np.mgrid[:size, :size]
    texture = _texture(generator, size, generator.uniform(1, 6))
    picture = np.zeros((size, size))
    for _ in range(generator.integers(3, 40)):
        row, column = generator.uniform(0, size, 2)
        radius = generator.uniform(0.02, 0.12) * size
        stretch, angle = generator.uniform(1, 1.8), generator.uniform(0, np.pi)
        along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
        across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
        distance = radius - np.hypot(along / stretch, across * stretch)
        inside = 1 / (1 + np.exp(-np.clip(distance / generator.uniform(0.4, 1.5), -30, 30)))
        picture = np.maximum(picture, generator.uniform(0.3, 1) * inside)
    return picture * (0.4 + texture)


def _membranes(generator: Generator, size: int) -> np.ndarray:
    """Draw the borders of a tissue: near to equal distance from two cells' centres."""
    n_cells = int(np.exp(generator.uniform(np.log(8), np.log(300))))
    centres = generator.uniform(-0.1, 1.1, (n_cells, 2)) * size
    sites = np.stack(np.mgrid[:size, :size], -1).reshape(-1, 2)
    sites = sites + np.stack([size * 0.1 * _texture(generator, size, 12).ravel()] * 2, -1)
    nearest, _ = cKDTree(centres).query(sites, k=2)
    border = np.exp(-(((nearest[:, 1] - nearest[:, 0]) / generator.uniform(1, 3)) ** 2))
    return border.reshape(size, size) * (0.3 + _texture(generator, size, size / 16))


def _cytoplasm(generator: Generator, size: int) -> np.ndarray:
    """Draw a soft texture that ends in dark regions."""
    texture = _texture(generator, size, generator.uniform(1.5, 12))
    return np.clip(texture - generator.uniform(0.3, 0.6), 0, None)


def _splat(
    rows: np.ndarray, columns: np.ndarray, brightness: np.ndarray, size: int, width: float
) -> np.ndarray:
    """Sum points up on the grid, each shared between its four pixels, and blur them."""
    picture = np.zeros((size + 1, size + 1))
    inside = (rows >= 0) & (columns >= 0) & (rows < size - 1) & (columns < size - 1)
    rows, columns, brightness = rows[inside], columns[inside], brightness[inside]
    top, left = rows.astype(int), columns.astype(int)
    down, right = rows - top, columns - left
    for row, row_share in ((top, 1 - down), (top + 1, down)):
        for column, column_share in ((left, 1 - right), (left + 1, right)):
            np.add.at(picture, (row, column), brightness * row_share * column_share)
    return gaussian_filter(picture[:size, :size], width)


def _texture(generator: Generator, size: int, grain: float) -> np.ndarray:
    """Return smooth noise, from 0 to 1."""
    noise = gaussian_filter(generator.standard_normal((size, size)), grain, mode="wrap")
    return (noise - noise.min()) / np.ptp(noise)


# Each takes a generator and a size, and returns a picture of any brightness, shape (size, size).
KINDS = {
    "filaments": _filaments,
    "puncta": _puncta,
    "nuclei": _nuclei,
    "membranes": _membranes,
    "cytoplasm": _cytoplasm,
}
