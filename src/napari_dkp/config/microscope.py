"""What is known of a microscope."""

import math
from dataclasses import dataclass

from napari_dkp import _checks
from napari_dkp.config.fields import number
from napari_dkp.config.names import LENS_MODELS, MODALITIES, LensModel, Modality

# Intensity: what float32 holds, and the square of which float64 does.
_HUGE = 1e37
# Cycles per pixel: far from where anyone would set up a microscope.
LEAST_CUTOFF, _MOST_CUTOFF = 0.02, 3.0
# Waves of defocus per plane, likewise.
LEAST_DEFOCUS, MOST_DEFOCUS = 2e-3, 5.0


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """Noise of the camera: variance = gain · (mean - offset) + read_noise².

    Parameters
    ----------
    gain : intensity units per photoelectron.
    offset : intensity of a dark pixel.
    read_noise : standard deviation in the dark, intensity units.
    """

    gain: float
    offset: float = 0.0
    read_noise: float = 0.0

    def __post_init__(self) -> None:
        number(self, "gain", 1e-30)
        number(self, "offset", -_HUGE, _HUGE)
        number(self, "read_noise", 0.0, _HUGE)


@dataclass(frozen=True, kw_only=True)
class OpticsConfig:
    """What is known of the microscope; all lengths in one unit, such as nanometres.

    All but the first three are of volumes, and planes do without.

    Parameters
    ----------
    numerical_aperture : of the objective, below the refractive index.
    wavelength : of the light that is imaged.
    pixel_size : of the image that is given, in the specimen.
    refractive_index : of the immersion medium, 1 to 2.5; None presumes the usual one for the
        aperture: air up to 0.95, water (1.333) up to 1.27, oil (1.518) up to 1.5.
    z_step : from one plane of the image to the next, in the specimen; None finds in the image how
        fast light spreads out of focus.
    modality : "widefield", "confocal", or "auto", which the light in the planes decides.
    excitation : wavelength of the light that excites, of confocal microscopes, up to `wavelength`;
        None presumes 0.93 of that, as of common dyes.
    pinhole : diameter of the pinhole of confocal microscopes in Airy units, 1.22 wavelength / NA
        as seen in the specimen, 0 to 10.
    model : "scalar", or "vectorial", which minds the polarisation of light under high apertures
        and needs psf-generator, the extra `optics`.
    """

    numerical_aperture: float
    wavelength: float
    pixel_size: float
    refractive_index: float | None = None
    z_step: float | None = None
    modality: Modality = "auto"
    excitation: float | None = None
    pinhole: float = 1.0
    model: LensModel = "scalar"

    def __post_init__(self) -> None:
        number(self, "numerical_aperture", 0.01, 2.0)
        number(self, "wavelength", 1e-12)
        number(self, "pixel_size", 1e-12)
        if not LEAST_CUTOFF <= self.cutoff <= _MOST_CUTOFF:
            raise ValueError(
                f"optics: expected a cut-off 2 NA / wavelength of {LEAST_CUTOFF:g} to "
                f"{_MOST_CUTOFF:g} cycles per pixel; got {self.cutoff:.3g}. Wavelength and pixel "
                "size have to be in the same unit"
            )
        if self.refractive_index is not None:
            number(self, "refractive_index", 1.0, 2.5)
            if self.refractive_index <= self.numerical_aperture:
                raise ValueError(
                    "refractive_index: expected more than the numerical aperture, "
                    f"{self.numerical_aperture:g}; got {self.refractive_index:g}"
                )
        if self.z_step is not None:
            number(self, "z_step", 1e-12)
        waves = self.waves_per_plane
        if waves is not None and not LEAST_DEFOCUS <= waves <= MOST_DEFOCUS:
            raise ValueError(
                f"z_step: expected {LEAST_DEFOCUS:g} to {MOST_DEFOCUS:g} waves of defocus per "
                f"plane; got {waves:.3g}, of a step of {self.z_step}. Wavelength and step have to "
                "be in the same unit"
            )
        _checks.choice("modality", self.modality, MODALITIES)
        if self.excitation is not None:
            number(self, "excitation", _LEAST_EXCITATION * self.wavelength, self.wavelength)
        number(self, "pinhole", 0.0, 10.0)
        _checks.choice("model", self.model, LENS_MODELS)

    @property
    def cutoff(self) -> float:
        """Optical cut-off 2 NA / λ, cycles per pixel of the given image."""
        return 2 * self.numerical_aperture / self.wavelength * self.pixel_size

    @property
    def aperture(self) -> float:
        """NA / n, the sine of the half angle of the cone of light."""
        return self.numerical_aperture / (self.refractive_index or self._usual_index)

    @property
    def waves_per_plane(self) -> float | None:
        """Waves w of defocus that a plane adds at the pupil's edge; None without `z_step`.

        n (1 − √(1 − (NA / n)²)) / λ times the step.
        """
        if self.z_step is None:
            return None
        index = self.numerical_aperture / self.aperture
        return index * (1 - math.sqrt(1 - self.aperture**2)) * self.z_step / self.wavelength

    @property
    def excitation_ratio(self) -> float:
        """Wavelength of the light that excites, relative to that of the light that is imaged."""
        return _USUAL_EXCITATION if self.excitation is None else self.excitation / self.wavelength

    @property
    def _usual_index(self) -> float:
        usual = (index for most, index in _MEDIA if self.numerical_aperture <= most)
        return next(usual, 1.05 * self.numerical_aperture)


# Numerical apertures up to which a medium is usual, and its refractive index.
_MEDIA = ((0.95, 1.0), (1.27, 1.333), (1.5, 1.518))
_USUAL_EXCITATION = 0.93
# Of the emitted wavelength: less is a wrong unit; more is light of two photons.
_LEAST_EXCITATION = 0.4
