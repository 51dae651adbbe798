"""Checks of input: what passes, what is refused, and with which words."""

import numpy as np
import pytest

from napari_dkp import _checks


def test_choice_returns_what_it_accepts():
    assert _checks.choice("phase", "area", ("area", "fkp")) == "area"


@pytest.mark.parametrize("value", ["Area", "", None, 3, ["area"]])
def test_choice_lists_the_options(value):
    with pytest.raises(ValueError, match=r"phase: expected one of 'area', 'fkp'; got"):
        _checks.choice("phase", value, ("area", "fkp"))


@pytest.mark.parametrize("value", [1, 8, np.int64(3), np.uint8(8)])
def test_integer_takes_every_integer_in_range(value):
    found = _checks.integer("n", value, 1, 8)
    assert found == value
    assert type(found) is int


@pytest.mark.parametrize("value", [1.0, "3", None, True, np.float32(2)])
def test_integer_refuses_other_types(value):
    with pytest.raises(TypeError, match="n: expected an integer; got"):
        _checks.integer("n", value, 0)


@pytest.mark.parametrize(("value", "high"), [(0, 8), (9, 8), (-1, None)])
def test_integer_names_its_range(value, high):
    expected = "from 1 to 8" if high else "at least 1"
    with pytest.raises(ValueError, match=f"n: expected an integer {expected}; got {value}"):
        _checks.integer("n", value, 1, high)


@pytest.mark.parametrize("value", [0, 0.5, 1, np.float32(0.25)])
def test_number_takes_every_real_in_range(value):
    found = _checks.number("x", value, 0.0, 1.0)
    assert found == value
    assert type(found) is float


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.1, 1.1])
def test_number_refuses_what_is_not_finite_or_in_range(value):
    with pytest.raises(ValueError, match=r"x: expected a finite number from 0 to 1; got"):
        _checks.number("x", value, 0.0, 1.0)


@pytest.mark.parametrize("value", [True, "1", None, 1j])
def test_number_refuses_other_types(value):
    with pytest.raises(TypeError, match="x: expected a number; got"):
        _checks.number("x", value, 0.0)


def test_interval_takes_a_pair():
    assert _checks.interval("range", [1, 2.5], 0.0) == (1.0, 2.5)
    assert _checks.interval("range", (2, 2), 0.0) == (2.0, 2.0)


@pytest.mark.parametrize("value", ["ab", 3, (1, 2, 3), (1,), None])
def test_interval_refuses_what_is_no_pair(value):
    with pytest.raises(TypeError, match="range: expected a pair"):
        _checks.interval("range", value, 0.0)


@pytest.mark.parametrize("value", [(2, 1), (-1, 2), (0, 11)])
def test_interval_refuses_falling_and_outlying_bounds(value):
    with pytest.raises(ValueError, match="range: expected"):
        _checks.interval("range", value, 0.0, 10.0)


def test_per_axis_takes_one_or_several():
    assert _checks.per_axis("scale", 2, 1, 8) == 2
    assert _checks.per_axis("scale", [2, np.int32(3)], 1, 8) == (2, 3)


@pytest.mark.parametrize(
    ("value", "error"),
    [((), ValueError), ((1, 9), ValueError), ((1, 2.0), TypeError), ("22", TypeError)],
)
def test_per_axis_checks_every_entry(value, error):
    with pytest.raises(error, match="scale: expected"):
        _checks.per_axis("scale", value, 1, 8)


@pytest.mark.parametrize("dtype", ["u1", "i8", "f2", "f8", ">u2"])
def test_real_dtypes_pass(dtype):
    _checks.real_dtype("image", np.dtype(dtype))


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (bool, "boolean; restore"),
        (complex, "complex; pass its magnitude"),
        (object, "object"),
        ("U3", "<U3"),
        ("M8[s]", "datetime64"),
    ],
)
def test_other_dtypes_are_named(dtype, words):
    with pytest.raises(TypeError, match=f"image: expected integer or floating values; got {words}"):
        _checks.real_dtype("image", np.dtype(dtype))


def test_finite_counts_what_is_not():
    _checks.finite("image", np.arange(4))
    _checks.finite("image", np.arange(4.0))
    values = np.array([1.0, np.nan, np.inf, np.nan, -np.inf, np.inf])
    with pytest.raises(
        ValueError, match="image: expected finite values; got 2 NaN and 3 infinite of 6"
    ):
        _checks.finite("image", values)
    with pytest.raises(ValueError, match=r"got 1 NaN of 1\. .*isfinite\(image"):
        _checks.finite("image", np.array([np.nan]))


def test_varying_refuses_a_constant():
    _checks.varying("image", np.array([1, 2]))
    with pytest.raises(
        ValueError, match="image: expected an image with contrast; every value is 3"
    ):
        _checks.varying("image", np.full((2, 2), 3))


def test_psf_is_normalised_whatever_its_type():
    for values in (np.array([[1, 3]], np.uint8), [[0.5, 1.5]], np.array([[100, 300]], np.int16)):
        found = _checks.psf("kernel", values, 2)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, [[0.25, 0.75]])


def test_psf_sums_without_overflow():
    wide = np.full((100, 100), 255, np.uint8)
    assert _checks.psf("kernel", wide, 2).sum() == pytest.approx(1, rel=1e-5)
    half = np.full((300, 300), 10, np.float16)
    assert _checks.psf("kernel", half, 2).sum() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (np.ones(3), ValueError, "expected 2 axes, one per spatial axis; got 1"),
        (np.ones((0, 3)), ValueError, "at least one value"),
        (np.array([[1, np.inf]]), ValueError, "got 1 NaN or infinite"),
        (np.array([[1, -2, -3]]), ValueError, "got 2 negative"),
        (np.zeros((2, 2)), ValueError, "positive sum"),
        (np.ones((2, 2), bool), TypeError, "boolean"),
    ],
)
def test_psf_refuses_what_is_none(values, error, words):
    with pytest.raises(error, match=f"kernel: .*{words}"):
        _checks.psf("kernel", values, 2)


def test_an_image_as_large_as_the_kernel_is_large_enough():
    _checks.not_smaller_than_kernel("image", (6, 4), (2, 3), (12, 12))
    with pytest.raises(ValueError, match=r"image: .*\(6, 4\), enlarged \(12, 12\)"):
        _checks.not_smaller_than_kernel("image", (6, 4), (2, 3), (12, 13))
