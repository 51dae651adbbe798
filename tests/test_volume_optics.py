"""Lenses of volumes against formulas, against each other and against psf-generator."""

import math
import sys

import numpy as np
import pytest
import torch

import napari_dkp as dkp
from napari_dkp import vectorial_optics
from napari_dkp.config import OpticsConfig, RKSConfig
from napari_dkp.degradation import Degradation
from napari_dkp.families import families
from napari_dkp.kernel_shape import full_widths
from napari_dkp.volume_optics import Intensity, confocal, scalar, widefield

OIL, WATER, AIR = (1.4, 1.518), (1.1, 1.333), (0.5, 1.0)


def microscope(na: float, index: float, **changes) -> OpticsConfig:
    """Return one that samples finely, in nanometres."""
    known = {"wavelength": 520.0, "pixel_size": 0.1 * 520 / na, "refractive_index": index}
    step = 0.1 * 520 / (index - math.sqrt(index**2 - na**2))
    return OpticsConfig(numerical_aperture=na, **known, z_step=step, **changes)


def kernel(family, optics: OpticsConfig, shape=(31, 31, 31), **options) -> np.ndarray:
    values = torch.tensor([[optics.cutoff], [optics.waves_per_plane]], dtype=torch.float64)
    centre = tuple((n - 1) / 2 for n in shape)
    return family(*values, shape, centre, optics.aperture, **options)[0].numpy()


@pytest.mark.parametrize("lens", [OIL, WATER, AIR])
def test_a_widefield_kernel_is_as_wide_as_is_known(lens):
    na, index = lens
    optics = microscope(na, index)
    axial, *lateral = full_widths(kernel(widefield, optics))
    depth = 0.88 * optics.wavelength / (index - math.sqrt(index**2 - na**2))
    assert axial * optics.z_step == pytest.approx(depth, rel=0.05)
    # That of the Airy pattern, under the area of a pixel.
    assert np.array(lateral) * optics.pixel_size == pytest.approx(0.51 * 520 / na, rel=0.03)


@pytest.mark.parametrize("lens", [OIL, AIR])
def test_a_confocal_kernel_with_its_pinhole_closed_is_narrower_by_the_root_of_two(lens):
    optics = microscope(*lens)
    wide = np.array(full_widths(kernel(widefield, optics)))
    narrow = np.array(full_widths(kernel(confocal, optics, excitation=1.0, pinhole=0.0)))
    assert wide / narrow == pytest.approx([1.41, 1.40, 1.40], rel=0.04)


def test_light_that_excites_and_light_that_is_seen_through_a_point_multiply():
    def squared(*where) -> torch.Tensor:
        return scalar(*where).square()

    optics = microscope(*OIL)
    found = kernel(confocal, optics, excitation=1.0, pinhole=0.0)
    np.testing.assert_allclose(found, kernel(widefield, optics, intensity=squared), rtol=1e-9)


def test_an_open_pinhole_leaves_what_excites():
    optics = microscope(*WATER)
    lit = OpticsConfig(
        numerical_aperture=1.1, wavelength=0.8 * 520, pixel_size=optics.pixel_size,
        refractive_index=1.333, z_step=optics.z_step,
    )  # fmt: skip
    alone = kernel(widefield, lit, (5, 31, 31))
    through = kernel(confocal, optics, (5, 31, 31), excitation=0.8, pinhole=10.0)
    np.testing.assert_allclose(through, alone, atol=0.01 * alone.max())
    nearly_closed = kernel(confocal, optics, (5, 31, 31), excitation=0.8, pinhole=0.5)
    assert np.abs(nearly_closed - alone).max() > 0.1 * alone.max()


def test_a_pinhole_lets_through_what_falls_on_its_disc():
    """Against the mean over points that fill the disc, of an intensity that is known everywhere."""

    def gaussian(cutoff, defocus, depths, radii, aperture) -> torch.Tensor:
        return torch.exp(-0.5 * (radii / 2) ** 2).expand(len(cutoff), len(depths), -1)

    cutoff = torch.tensor([0.4], dtype=torch.float64)
    options = {"excitation": 1.0, "pinhole": 1.5, "intensity": gaussian}
    found = confocal(cutoff, cutoff, (1, 15, 15), (0.0, 7.0, 7.0), **options)[0, 0]
    fine = np.linspace(-6, 6, 601)
    inside = np.hypot(fine[:, None], fine) <= 0.5 * 2.44 * 1.5 / 0.4
    y, x = (axis[inside] for axis in np.meshgrid(fine, fine, indexing="ij"))
    along = np.arange(15) - 7.0
    two = np.array([-0.5, 0.5]) / math.sqrt(3)
    rows, columns = np.meshgrid(*2 * [(along[:, None] + two).ravel()], indexing="ij")
    passed = [np.exp(-((r - y) ** 2 + (c - x) ** 2) / 8).mean() for r, c in zip(
        rows.ravel(), columns.ravel(), strict=True
    )]  # fmt: skip
    light = np.exp(-(rows**2 + columns**2) / 8) * np.reshape(passed, rows.shape)
    expected = light.reshape(15, 2, 15, 2).mean((1, 3))
    np.testing.assert_allclose(found, expected / expected.sum(), atol=2e-3 * float(found.max()))


def test_families_are_those_of_the_stated_microscope():
    model = Degradation((16, 24, 24), (1, 1, 1), (15, 21, 21))
    optics = microscope(*WATER, excitation=0.7 * 520, pinhole=0.3)
    cutoff, waves = optics.cutoff, optics.waves_per_plane
    rks = RKSConfig(cutoff=(cutoff, cutoff), defocus=(waves, waves))

    def drawn(name, stated) -> np.ndarray:
        (family,) = families(name, model, rks, stated)
        return family.render(torch.rand(1, 2, dtype=torch.float64))[0].numpy()

    expected = kernel(confocal, optics, (15, 21, 21), excitation=0.7, pinhole=0.3)
    np.testing.assert_allclose(drawn("confocal", optics), expected, rtol=1e-6)
    np.testing.assert_allclose(
        drawn("widefield", optics), kernel(widefield, optics, (15, 21, 21)), rtol=1e-6
    )
    assert np.abs(drawn("confocal", None) - expected).max() > 0.05 * expected.max()


def profile(of: Intensity, optics: OpticsConfig, depths, radii) -> np.ndarray:
    """Return intensities over depths and radii in nanometres, of greatest value 1."""
    values = torch.tensor([[optics.cutoff], [optics.waves_per_plane]], dtype=torch.float64)
    where = torch.from_numpy(depths / optics.z_step), torch.as_tensor(radii / optics.pixel_size)
    found = of(*values, *where, optics.aperture)[0].numpy()
    return found / found.max()


@pytest.mark.parametrize("lens", [AIR, WATER, OIL])
@pytest.mark.parametrize(
    ("name", "of", "options"),
    [
        ("ScalarSphericalPropagator", scalar, {"cos_factor": True}),
        (
            "VectorialSphericalPropagator",
            vectorial_optics.intensity,
            {"apod_factor": True, "e0x": 1.0, "e0y": 1j},
        ),
    ],
)
def test_lenses_are_those_of_psf_generator(lens, name, of, options):
    """Against its images, which are square and in planes that it spaces itself."""
    propagators = pytest.importorskip("psf_generator")
    na, index = lens
    images = getattr(propagators, name)(
        n_pix_pupil=1025, n_pix_psf=31, wavelength=520.0, na=na, n_i=index, n_i0=index,
        pix_size=60.0, defocus_step=200.0, n_defocus=10, **options,
    )  # fmt: skip
    expected = images.compute_focus_field().abs().square().sum(1).numpy()
    depths = np.linspace(images.defocus_min, images.defocus_max, 10)
    axis = np.linspace(-images.fov / 2, images.fov / 2, 31)
    radii, place = np.unique(np.hypot(axis[:, None], axis), return_inverse=True)
    found = profile(of, microscope(na, index), depths, radii)[:, place.ravel()]
    np.testing.assert_allclose(
        found.reshape(expected.shape) / found.max(), expected / expected.max(), atol=2e-6
    )


def test_polarisation_counts_under_high_apertures_only():
    pytest.importorskip("psf_generator")
    depths, radii = np.array([0.0, 200.0, 800.0]), np.linspace(0, 900, 91)
    low, high = (
        np.abs(
            profile(vectorial_optics.intensity, optics, depths, radii)
            - profile(scalar, optics, depths, radii)
        ).max()
        for optics in (microscope(0.2, 1.0), microscope(*OIL))
    )
    assert low < 0.01 < 0.05 < high


def test_without_psf_generator_the_vectorial_model_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psf_generator", None)
    counts = np.random.default_rng(0).poisson(5, (12, 32, 32)).astype(np.uint16)

    def run(model: str) -> dkp.State:
        return next(
            dkp.iter_restore(
                counts, axes="ZYX", volume=True, scale=1, kernel_family="widefield",
                optics=microscope(*OIL, model=model),
            )
        )  # fmt: skip

    assert run("scalar").step == 1
    with pytest.raises(ValueError, match=r"'scalar' where psf-generator.*napari-dkp\[optics\]"):
        run("vectorial")


def test_a_volume_is_restored_under_a_vectorial_lens():
    pytest.importorskip("psf_generator")
    counts = np.random.default_rng(0).poisson(5, (12, 32, 32)).astype(np.uint16)
    kernels = [
        next(
            dkp.iter_restore(
                counts, axes="ZYX", volume=True, scale=1, kernel_family="confocal",
                optics=microscope(*OIL, model=model),
            )
        ).kernel
        for model in ("scalar", "vectorial")
    ]  # fmt: skip
    assert full_widths(kernels[1])[1] > 1.02 * full_widths(kernels[0])[1]
