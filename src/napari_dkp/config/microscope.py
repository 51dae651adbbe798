"""What is known of a microscope."""

from dataclasses import dataclass

from napari_dkp.config.fields import number

# Intensity: what float32 holds, and the square of which float64 does.
_HUGE = 1e37
# Cycles per pixel: far from where anyone would set up a microscope.
LEAST_CUTOFF, _MOST_CUTOFF = 0.02, 3.0


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
    """What is known of the microscope; both lengths in one unit, such as nanometres.

    Parameters
    ----------
    numerical_aperture : of the objective.
    wavelength : of the light that is imaged.
    pixel_size : of the image that is given, in the specimen.
    """

    numerical_aperture: float
    wavelength: float
    pixel_size: float

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

    @property
    def cutoff(self) -> float:
        """Optical cut-off 2 NA / λ, cycles per pixel of the given image."""
        return 2 * self.numerical_aperture / self.wavelength * self.pixel_size
