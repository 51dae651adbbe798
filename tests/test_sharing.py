"""The pieces in which is found what planes have in common."""

import numpy as np
import pytest

from napari_dkp import sharing

SIDE = 128  # of the smallest piece of a large plane


def stack_of(*contrasts: float, shape: tuple[int, int] = (300, 300)) -> np.ndarray:
    """Noise of these standard deviations; each plane has its own level, by which it is known."""
    noise = np.random.default_rng(0).standard_normal((len(contrasts), 1, *shape))
    strength = np.array(contrasts)[:, None, None, None]
    level = 1000 * np.arange(len(contrasts))[:, None, None, None]
    return (strength * noise + level).astype(np.float32)


def pieces_of(stack: np.ndarray, least_side: int = 8) -> list[np.ndarray]:
    planes = [(number,) for number in range(len(stack))]
    return sharing.pieces(lambda index: stack[index], planes, stack.shape[2:], least_side)


def planes_in(pieces: list[np.ndarray]) -> list[int]:
    return [round(float(piece.mean()) / 1000) for piece in pieces]


@pytest.mark.parametrize(
    "shape", [(300, 300), (150, 700), (1000, 40), (700, 900), (20, 30), (1, 9)]
)
@pytest.mark.parametrize("n_planes", [1, 2, 5])
@pytest.mark.parametrize("least_side", [1, 42, 180])
def test_pieces_have_one_shape_and_are_together_no_larger_than_a_plane(shape, n_planes, least_side):
    stack = stack_of(*(1.0,) * n_planes, shape=shape)
    found = pieces_of(stack, least_side)
    assert 1 <= len(found) <= 3
    assert {piece.shape for piece in found} == {found[0].shape}
    assert sum(piece.size for piece in found) <= stack[0].size
    for n, length in zip(found[0].shape[1:], shape, strict=True):
        assert n >= min(least_side, length)
    if least_side < SIDE:
        assert sum(piece.size for piece in found) <= 512**2


def test_pieces_are_of_different_planes():
    assert len(set(planes_in(pieces_of(stack_of(1, 1, 1, 1, 1))))) == 3
    assert sorted(set(planes_in(pieces_of(stack_of(1, 1))))) == [0, 1]


def test_planes_that_vary_most_are_taken():
    assert sorted(planes_in(pieces_of(stack_of(1, 9, 2, 8, 3, 7)))) == [1, 3, 5]


def test_no_piece_is_of_a_flat_plane():
    assert set(planes_in(pieces_of(stack_of(0, 0, 1, 0)))) == {2}
    assert pieces_of(stack_of(0, 0)) == []


def test_pieces_are_the_liveliest_and_share_nothing():
    stack = np.zeros((1, 1, 1200, 1200), np.float32)
    spots = [(100, 100), (1000, 300), (600, 900)]
    for number, (row, column) in enumerate(spots, 1):
        stack[0, 0, row : row + 20, column : column + 20] = number
    found = pieces_of(stack)
    assert [piece.max() for piece in found] == [3, 2, 1]
    assert [np.unique(piece).tolist() for piece in found] == [[0, 3], [0, 2], [0, 1]]


def test_a_small_plane_is_one_piece():
    stack = stack_of(1, 2, shape=(100, 100))
    (piece,) = pieces_of(stack)
    np.testing.assert_array_equal(piece, stack[1])


def test_colours_stay_together():
    stack = np.random.default_rng(0).random((2, 3, 300, 300))
    assert {piece.shape[0] for piece in pieces_of(stack)} == {3}


@pytest.mark.parametrize(("factor", "dtype"), [(1, np.uint16), (1e-30, np.float32), (1e-3, "f2")])
def test_contrast_counts_however_small_and_in_every_type(factor, dtype):
    stack = (factor * 100 * np.random.default_rng(0).random((2, 1, 30, 30))).astype(dtype)
    (piece,) = pieces_of(stack)
    assert piece.dtype == dtype


def test_of_many_planes_some_are_read():
    stack = stack_of(*(1.0,) * 50, shape=(20, 20))
    read = []

    def reading(index: tuple[int, ...]) -> np.ndarray:
        read.append(index[0])
        return stack[index]

    planes = [(number,) for number in range(50)]
    sharing.pieces(reading, planes, (20, 20), 8)
    assert len(read) == len(set(read)) <= 9
    assert (min(read), max(read)) == (0, 49)
