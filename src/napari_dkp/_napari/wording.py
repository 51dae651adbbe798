"""The words in which forms ask: for every field of the configs what a person reads, and what fits.

Types and defaults come from the dataclasses.
"""

from dataclasses import dataclass

from napari_dkp.config import (
    MAX_SCALE,
    DiffusionConfig,
    DIPConfig,
    NoiseConfig,
    OpticsConfig,
    PKEConfig,
    RichardsonLucyConfig,
    RKSConfig,
    SearchConfig,
    Settings,
)

AUTOMATIC = "automatic"


@dataclass(frozen=True)
class Entry:
    """How one field is asked for.

    Attributes
    ----------
    label : what stands before the field.
    tip : what it means, with the unit; shown while the pointer rests on it.
    low, high : range of a number.
    unset : what stands in place of `low`, which then counts as no value at all.
    unit : what stands behind a real number.
    names : of the options of a choice, by value.
    is_model : the text names a diffusion model.
    per_channel : each channel may have a number of its own.
    """

    label: str
    tip: str
    low: float = 0
    high: float = 2**31 - 1
    unset: str | None = None
    unit: str = ""
    names: dict[str, str] | None = None
    is_model: bool = False
    per_channel: bool = False


ENTRIES: dict[type, dict[str, Entry]] = {
    Settings: {
        "scale": Entry(
            "Enlarge",
            "Restored pixels per image pixel, along each axis; ×1 only removes the blur.",
            1,
            MAX_SCALE,
        ),
        "axes": Entry(
            "Axes",
            "Meaning of each image axis, e.g. ZYX or TCYX; empty: from the layer's axis labels.",
        ),
        "volume": Entry(
            "Volume",
            "Restore Z together with Y and X, under a kernel of three axes. Otherwise plane by "
            "plane.",
        ),
        "method": Entry(
            "Method",
            "How the image is restored: by a network that is fitted to this image alone, by one "
            "that has learned what images look like, or by counting photons (seconds). Automatic "
            "counts photons in microscope images and fits a network to others.",
            names={
                "auto": "Automatic",
                "dip": "Deep image prior",
                "diffusion": "Diffusion model",
                "richardson-lucy": "Richardson–Lucy",
            },
        ),
        "kernel_family": Entry(
            "Blur",
            "What blurred the image. Automatic tells microscopes from other optics; motion has to "
            "be named.",
            names={
                "auto": "Automatic",
                "gaussian": "Optics, out of focus",
                "airy": "Microscope",
                "pupil": "Microscope, aberrated",
                "widefield": "Widefield volume",
                "confocal": "Confocal volume",
                "line": "Straight motion",
                "trajectory": "Camera shake",
            },
        ),
        "kernel_size": Entry(
            "Kernel size",
            "Width of the blur kernel in restored pixels, odd.",
            1,
            255,
        ),
        "preset": Entry(
            "Quality",
            "Better takes longer. Sets the steps and all numbers below.",
            names={
                "fast": "Fast",
                "balanced": "Balanced",
                "best": "Best",
                "paper": "As published",
            },
        ),
        "iterations": Entry(
            "Steps",
            "Steps per image plane, not counting the search for a motion.",
            0,
            1_000_000,
            unset=AUTOMATIC,
        ),
        "phase": Entry(
            "Pixel grid",
            "Where image pixels lie among restored ones. Only benchmarks need the second.",
            names={"area": "Overlays the image", "fkp": "Published benchmark"},
        ),
        "boundary": Entry(
            "Border",
            "What lies outside the image: the scene goes on, or the image repeats itself.",
            names={"free": "Scene goes on", "circular": "Image repeats"},
        ),
        "device": Entry("Compute on", "Where to compute, and the memory that is free there."),
        "precision": Entry(
            "Precision",
            "Of the image network; bfloat16 is faster where the hardware has it.",
            names={"auto": "Automatic", "float32": "32 bit", "bfloat16": "bfloat16"},
        ),
        "share_kernel": Entry(
            "Shared kernel",
            "Planes of a stack have one kernel, per channel. Otherwise each plane has its own.",
        ),
        "tile": Entry(
            "Tiles",
            "Largest side, in image pixels, of what is restored at once: larger planes are taken "
            "apart into overlapping tiles.",
            32,
            1_000_000,
            unset=AUTOMATIC,
        ),
        "diagnostics": Entry(
            "Diagnostics",
            "Adds two layers: what the result leaves unexplained of the image, and how uncertain "
            "it is at each pixel.",
        ),
        "seed": Entry("Random seed", "The same seed gives the same result.", 0, 2**63 - 1),
    },
    RKSConfig: {
        "sampler": Entry(
            "Sampler",
            "A population of kernels that follows the data, or a few fresh draws as published.",
            names={"smc": "Population", "paper": "As published"},
        ),
        "particles": Entry("Kernels", "Kernels in the population.", 8, 65536),
        "moves": Entry("Moves", "Moves of every kernel per step.", 0, 100),
        "confidence": Entry(
            "Confidence", "Log-likelihood that a kernel loses when its misfit doubles.", 1e-3, 1e6
        ),
        "draws": Entry(
            "Draws", "Fresh kernels per kernel update, sampler 'As published'.", 1, 10000
        ),
        "every": Entry(
            "Steps between", "Image steps from one kernel update to the next.", 1, 10000
        ),
        "updates": Entry(
            "Kernel updates", "After so many, the kernel of optics stands and the image goes on.", 2
        ),
        "max_sites": Entry(
            "Pixels used", "Image pixels that judge the kernels; more are thinned out.", 256
        ),
        "gaussian_variance": Entry(
            "Optics range", "Smallest and largest variance, restored pixels squared."
        ),
        "axial_width": Entry(
            "Axial width", "Sigma of a volume's Gaussians along Z, image pixels: low, high."
        ),
        "lateral_width": Entry(
            "Lateral width", "Sigma of a volume's Gaussians in a plane, image pixels: low, high."
        ),
        "defocus": Entry(
            "Defocus", "Of a volume's light out of focus, waves per plane at the pupil's edge."
        ),
        "cutoff": Entry(
            "Cut-off", "Optical cut-off of a microscope, cycles per restored pixel: low, high."
        ),
        "damping": Entry(
            "Damping", "What a microscope's contrast at the cut-off is of the ideal: low, high."
        ),
        "aberration": Entry("Aberration", "Largest of each aberration, waves RMS.", 0, 0.5),
        "line_length": Entry("Motion length", "Shortest and longest motion, restored pixels."),
        "line_width": Entry("Motion width", "Sigma across the motion, restored pixels."),
        "path_extent": Entry("Shake extent", "Smallest and largest shake, restored pixels."),
        "path_width": Entry("Shake width", "Sigma across the path, restored pixels."),
    },
    PKEConfig: {
        "hidden": Entry("Hidden units", "Units of each hidden layer of the kernel network."),
        "learning_rate": Entry("Learning rate", "Step size of Adam.", 1e-8, 1),
        "warm_up": Entry("Warm-up", "Steps on random kernels before the image is looked at."),
        "steps": Entry("Network steps", "Steps of the kernel network per kernel update.", 1),
        "distance": Entry(
            "Pull",
            "How the kernel is held to the random kernels.",
            names={"entropy": "By entropy", "squared": "As published"},
        ),
        "data_weight": Entry(
            "Data weight", "Pull of the image relative to that of the random kernels.", 0, 1e6
        ),
    },
    SearchConfig: {
        "rounds": Entry(
            "Rounds", "Images that improve a motion, beyond a first; a Gaussian has a third.", 0
        ),
        "steps": Entry(
            "Round length",
            "Steps per image under a line; a third more for a path, less for optics.",
            1,
        ),
        "stiffness": Entry(
            "Stiffness", "How far the kernel is held to what an image has formed under.", 0, 1
        ),
        "profile_weight": Entry(
            "Data weight", "Pull of complete images relative to that of random kernels.", 0, 1e6
        ),
        "data_weight": Entry(
            "Forming weight", "Pull of forming images relative to random kernels.", 0, 1e6
        ),
        "left_out": Entry(
            "Left out", "Share of the pixels that a forming image does not see.", 0, 0.9
        ),
        "memory": Entry("Memory", "Share of what earlier forming images said that is kept.", 0, 1),
        "max_sites": Entry(
            "Pixels used", "Image pixels that judge the kernels; more are thinned out.", 256
        ),
        "channels": Entry("Channels", "Width of the small network of the search.", 4, 1024),
    },
    DIPConfig: {
        "network": Entry(
            "Network",
            "The light one is faster; the other is for comparison with the publication.",
            names={"light": "Light", "published": "As published"},
        ),
        "channels": Entry(
            "Channels",
            "Width of the light network at its coarse scales; the finest has a quarter.",
            4,
            1024,
        ),
        "optimiser": Entry(
            "Optimiser",
            "Muon needs a third of the steps; Adam is for comparison with the publication.",
            names={"muon": "Muon", "adam": "Adam, as published"},
        ),
        "learning_rate": Entry("Learning rate", "Step size of the network's fit.", 1e-8, 1),
        "settling": Entry(
            "Settling", "Share of the learning rate that is left at the end of the run.", 0, 1
        ),
        "ssim_fraction": Entry(
            "Structure first",
            "Share of the run that fits structure (SSIM); squared error follows.",
            0,
            1,
        ),
        "gradient_weight": Entry(
            "Smoothness",
            "Weight of the prior on image gradients at the end of the run; 0 leaves it out.",
            0,
            1e6,
        ),
        "gradient_growth": Entry(
            "Smooth later", "How late in the run smoothness counts; 0: from the start.", 0, 100
        ),
        "noise_weight": Entry(
            "Smooth noise",
            "Smoothness where noise is seen, in units of its variance; 0 does not look for noise.",
            0,
            1e6,
        ),
        "polishing": Entry(
            "Polish",
            "Steps at the end that hold the image to the data and to what is alike in it.",
            0,
            1000,
        ),
    },
    DiffusionConfig: {
        "model": Entry(
            "Model",
            "What has learned how images look: the small model that comes with napari-dkp, a "
            "folder that diffusers saved, a checkpoint of guided-diffusion, or owner/name on the "
            "Hugging Face hub. See docs/diffusion.md on where to get larger ones.",
            is_model=True,
        ),
        "class_label": Entry(
            "Class",
            "Kind of object to expect, of models that know classes.",
            -1,
            100_000,
            unset="none",
        ),
        "download": Entry("Download", "Fetch a model of the hub that is not on this machine yet."),
        "sampler": Entry(
            "Sampler",
            "Draw images to find the kernel, then finish one without drawing; or draw to the end, "
            "with the kernel sought at every step, as published.",
            names={"anneal": "Draw, then finish", "ddim": "DDIM", "ddpm": "DDPM, as published"},
        ),
        "data_step": Entry(
            "Data step",
            "How the image is held to the data at each step.",
            names={"proximal": "In closed form", "gradient": "Gradient, as published"},
        ),
        "samples": Entry("Samples", "Images to draw and average, sampler DDPM.", 1, 64),
        "seek": Entry("Noise, kernel", "Last and first noise level while the kernel is sought."),
        "trials": Entry(
            "Trials",
            "Rounds in which the width of a Gaussian kernel is settled. 0: none.",
            0,
            100,
        ),
        "first": Entry("Noise, first", "Noise level of the first step.", 1e-3, 200),
        "last": Entry("Noise, last", "Noise level of the last step.", 1e-3, 200),
        "trust": Entry("Trust", "Weight of the data against the model.", 1e-6, 1e6),
        "noise": Entry(
            "Least noise", "Noise level that the data are taken to have at least.", 1e-4, 1
        ),
    },
    RichardsonLucyConfig: {
        "strength": Entry(
            "Smoothness",
            "Greatest weight of the penalty on ripple, which is noise; less is tried too. 0: none.",
            0,
            1e3,
        ),
        "patience": Entry(
            "Patience", "Steps without gain after which the penalty has its turn.", 1
        ),
    },
    OpticsConfig: {
        "numerical_aperture": Entry(
            "Aperture (NA)", "Numerical aperture of the objective.", 0, 2, unset="unknown"
        ),
        "wavelength": Entry(
            "Wavelength",
            "Of the light that the camera sees. Where channels differ: one for each, with commas "
            "between them.",
            unset="unknown",
            unit="nm",
            per_channel=True,
        ),
        "pixel_size": Entry(
            "Pixel size", "Of the image, in the specimen.", 0, 1e9, unset="unknown", unit="nm"
        ),
        "refractive_index": Entry(
            "Medium (n)",
            "Refractive index of the immersion medium: air 1, water 1.333, oil 1.518. Unknown: the "
            "usual one for the aperture.",
            0,
            2.5,
            unset="unknown",
        ),
        "z_step": Entry(
            "Z step",
            "From one plane to the next, in the specimen. Unknown: how fast light spreads out of "
            "focus is found in the image.",
            0,
            1e9,
            unset="unknown",
            unit="nm",
        ),
        "modality": Entry(
            "Kind",
            "Automatic looks at the light in the planes.",
            names={"auto": "Automatic", "widefield": "Widefield", "confocal": "Confocal"},
        ),
        "excitation": Entry(
            "Excitation",
            "Wavelength of the laser of a confocal microscope. Where channels differ: one for "
            "each, with commas between them. Unknown: 0.93 of the other one.",
            unset="unknown",
            unit="nm",
            per_channel=True,
        ),
        "pinhole": Entry(
            "Pinhole", "Diameter of a confocal microscope's pinhole, Airy units.", 0, 10, unit="AU"
        ),
        "model": Entry(
            "Lens model",
            "Vectorial minds the polarisation of light, which counts above an aperture of about "
            "0.5; it needs psf-generator.",
            names={"scalar": "Scalar", "vectorial": "Vectorial"},
        ),
    },
    NoiseConfig: {
        "gain": Entry(
            "Gain",
            "Intensity per photoelectron. Unknown: all three are estimated from the image.",
            0,
            1e9,
            unset="estimated",
        ),
        "offset": Entry("Offset", "Intensity of a dark pixel.", -1e9, 1e9),
        "read_noise": Entry("Read noise", "Standard deviation in the dark, intensity.", 0, 1e9),
    },
}
