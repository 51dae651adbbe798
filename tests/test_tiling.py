"""Tiles cover a plane, and what is made of them is joined without a seam."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from napari_dkp.tiling import Tile, Tiling

RANDOM = np.random.default_rng(0)
# Lengths, greatest side, overlap: chosen and drawn at random, with overlaps of any parity.
CASES = [
    ((1, 1), 1, 0),
    ((10, 12), 12, 6),
    ((10, 12), 99, 50),
    ((33, 7), 16, 8),
    ((33, 40), 16, 7),
    ((64, 65), 32, 1),
    ((100, 3), 20, 10),
    *(
        (tuple(int(n) for n in RANDOM.integers(1, 120, 2)), int(side), int(overlap))
        for side in RANDOM.integers(8, 60, 10)
        for overlap in RANDOM.integers(1, side // 2 + 1, 2)
    ),
]
every_case = pytest.mark.parametrize(("shape", "side", "overlap"), CASES)
every_scale = pytest.mark.parametrize("scale", [(1, 1), (2, 2), (3, 2), (1, 4)])


@every_case
def test_tiles_cover_the_plane_and_share_enough(shape, side, overlap):
    tiling = Tiling(shape, side, overlap)
    tiles = list(tiling)
    assert len(tiles) == len(tiling)
    covered = np.zeros(shape, int)
    for tile in tiles:
        for window, n in zip(tile.window, shape, strict=True):
            assert 0 <= window.start < window.stop <= n
            assert window.stop - window.start == min(side, n)
        covered[tile.window] += 1
    assert covered.min() >= 1
    for axis in range(2):
        spans = sorted({(tile.window[axis].start, tile.window[axis].stop) for tile in tiles})
        for (_, stop), (start, _) in pairwise(spans):
            assert stop - start >= overlap


@every_case
def test_no_fewer_tiles_would_do(shape, side, overlap):
    needed = 1
    for n in shape:
        count = 1
        while count * side - (count - 1) * overlap < n:
            count += 1
        needed *= count
    assert len(Tiling(shape, side, overlap)) == needed


def added(tiling: Tiling, shape: tuple[int, int], scale: tuple[int, int], image) -> torch.Tensor:
    """Join what the tiles have of an image, shape (..., *scale * shape), in double precision."""
    canvas = torch.zeros(image.shape, dtype=torch.float64)
    for tile in tiling:
        fine = tuple(
            slice(s * window.start, s * window.stop)
            for s, window in zip(scale, tile.window, strict=True)
        )
        tile.add(canvas, image[(..., *fine)], scale)
    return canvas


def weights(tile: Tile, shape: tuple[int, int], scale: tuple[int, int]) -> torch.Tensor:
    """Return what a tile's pixels count for, on the canvas of its plane."""
    canvas = torch.zeros([s * n for s, n in zip(scale, shape, strict=True)])
    sides = [s * (w.stop - w.start) for s, w in zip(scale, tile.window, strict=True)]
    tile.add(canvas, torch.ones(sides), scale)
    return canvas


@every_case
@every_scale
def test_weights_of_all_tiles_sum_to_one_everywhere(shape, side, overlap, scale):
    tiling = Tiling(shape, side, overlap)
    whole = [s * n for s, n in zip(scale, shape, strict=True)]
    total = added(tiling, shape, scale, torch.ones(whole))
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)
    for tile in tiling:
        alone = weights(tile, shape, scale)
        assert alone.min() >= 0
        assert alone.max() <= 1 + 1e-6


@every_case
@every_scale
def test_tiles_of_one_image_join_to_that_image(shape, side, overlap, scale):
    tiling = Tiling(shape, side, overlap)
    whole = [s * n for s, n in zip(scale, shape, strict=True)]
    image = torch.rand(2, 3, *whole, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(added(tiling, shape, scale, image), image, rtol=0, atol=1e-6)


@every_case
@pytest.mark.parametrize("scale", [1, 3])
def test_what_is_near_the_rim_of_a_tile_is_left_out(shape, side, overlap, scale):
    """But where the rim is that of the plane: a quarter of the overlap, at least."""
    tiling = Tiling(shape, side, overlap)
    margin = scale * overlap // 4
    for tile in tiling:
        alone = weights(tile, shape, (scale, scale))
        for axis, (window, n) in enumerate(zip(tile.window, shape, strict=True)):
            along = alone.amax(1 - axis)[scale * window.start : scale * window.stop].tolist()
            if window.start > 0:
                assert along[:margin] == [0] * margin
            if window.stop < n:
                assert along[len(along) - margin :] == [0] * margin


def test_where_neighbours_meet_the_one_fades_into_the_other():
    tiling = Tiling((10, 28), 16, 4)
    first, second = tiling
    canvas = torch.zeros(10, 28)
    first.add(canvas, torch.ones(10, 16), (1, 1))
    # They share samples 12 to 15 and take turns in the middle two.
    expected = [1.0] * 13 + [0.75, 0.25] + [0.0] * 13
    assert canvas[0].tolist() == expected
    assert (second.window[1].start, second.window[1].stop) == (12, 28)


def test_tiles_no_larger_than_what_they_share_are_refused():
    with pytest.raises(ValueError, match=r"tile: expected at least 20 pixels.*got 19"):
        Tiling((10, 40), 19, 10)
    assert len(Tiling((10, 19), 19, 10)) == 1
    assert len(Tiling((10, 40), 20, 10)) == 3
