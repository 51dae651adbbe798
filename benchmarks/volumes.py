"""A blind volume against Richardson–Lucy with the true kernel and the best number of steps.

python -m benchmarks.volumes DATA.tif TRUTH.tif KERNEL.tif
"""

import argparse
from time import perf_counter

import numpy as np
from scipy import fft
from scipy.optimize import minimize

import napari_dkp as dkp
from napari_dkp import io


def psnr(volume: np.ndarray, truth: np.ndarray, peak: float) -> float:
    """Return the PSNR in dB after the one factor that serves the volume best."""
    factor = (volume * truth).sum() / (volume**2).sum()
    return float(10 * np.log10(peak**2 / np.mean((factor * volume - truth) ** 2)))


def oracle(
    data: np.ndarray, transfer: np.ndarray, truth: np.ndarray, peak: float, steps: int
) -> tuple[float, int]:
    """Return the best PSNR on the way of plain Richardson–Lucy, which wraps, and its step."""
    volume = np.full_like(data, data.mean())
    best = (-np.inf, 0)
    least = 1e-6 * data.max()
    for step in range(1, steps + 1):
        ratio = data / np.maximum(blurred(volume, transfer), least)
        volume = np.maximum(volume * blurred(ratio, transfer.conj()), 0)
        best = max(best, (psnr(volume, truth, peak), step))
    return best


def blurred(volume: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    """Convolve a volume that wraps."""
    result: np.ndarray = fft.irfftn(fft.rfftn(volume) * transfer, volume.shape)
    return result


def transfer_of(kernel: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the transfer function of a kernel about the middle of its array."""
    middle = [-(n // 2) for n in kernel.shape]
    result: np.ndarray = fft.rfftn(np.roll(kernel / kernel.sum(), middle, (0, 1, 2)), shape)
    return result


def centred(transfer: np.ndarray, data: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Shift a kernel to where it best makes the data of the truth: it may lie off its middle."""
    frequencies = np.meshgrid(
        *(fft.fftfreq(n) for n in data.shape[:-1]), fft.rfftfreq(data.shape[-1]), indexing="ij"
    )

    def shifted(by: np.ndarray) -> np.ndarray:
        phase = sum(f * amount for f, amount in zip(frequencies, by, strict=True))
        result: np.ndarray = transfer * np.exp(-2j * np.pi * phase)
        return result

    def misfit(by: np.ndarray) -> float:
        made = blurred(truth, shifted(by))
        factor = (made * data).sum() / (made**2).sum()
        return float(np.mean((data - factor * made) ** 2) / np.mean(data**2))

    return shifted(minimize(misfit, np.zeros(3), method="Nelder-Mead").x)


def main() -> None:
    """Print the PSNR of the data, of the oracle and of blind runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="volume ZYX")
    parser.add_argument("truth")
    parser.add_argument("kernel", help="of the size of the data, its peak in the middle")
    parser.add_argument("--steps", type=int, default=2000, help="of the oracle, at most")
    options = parser.parse_args()
    given = io.read(options.data).image
    truth = io.read(options.truth).image
    # The range of the type that it is stored in.
    peak = float(np.iinfo(truth.dtype).max) if truth.dtype.kind in "iu" else float(truth.max())
    data, truth = given.astype(float), truth.astype(float)
    kernel = io.read(options.kernel).image.astype(float)
    print(f"data: {psnr(data, truth, peak):.2f} dB")
    stored = transfer_of(kernel, data.shape)
    kind = f"Richardson–Lucy, best of {options.steps} steps"
    best, step = oracle(data, stored, truth, peak, options.steps)
    print(f"{kind}, true kernel: {best:.2f} dB (step {step})")
    moved, step = oracle(data, centred(stored, data, truth), truth, peak, options.steps)
    print(f"{kind}, true kernel moved to fit the data: {moved:.2f} dB (step {step})")
    for boundary in ("free", "circular"):
        began = perf_counter()
        result = dkp.restore(given, axes="ZYX", volume=True, scale=1, boundary=boundary)
        found = psnr(result.image.astype(float), truth, peak)
        seconds = perf_counter() - began
        print(
            f"blind, boundary {boundary}: {found:.2f} dB, {found - best:+.2f} and "
            f"{found - moved:+.2f} dB, family {result.settings.kernel_family}, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
