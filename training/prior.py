"""Train a small unconditional diffusion model.

    python -m training.prior --images FOLDER --out OUT [--steps 20000]

OUT/model is what napari-dkp, and diffusers, load. Interrupted, the same command goes on; with more
`--steps`, a finished run does.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss

from napari_dkp.device import resolve_device, resolve_precision
from training.patches import Patches, drawn_images, read_images, sample_images


@dataclass(frozen=True)
class Plan:
    """Numbers of a training run.

    Attributes
    ----------
    channels : 3, or 1 for grey.
    widths : channels of the network's levels, finest first; each halves the resolution.
    size, batch : side and number of the patches of a step.
    learning_rate : of AdamW; rises over the first steps and falls to zero over the last fifth.
    average : decay of the average of the weights that is handed out.
    drawn : share of patches with drawn structures.
    seed : of weights, patches and noise.
    """

    channels: int = 3
    widths: tuple[int, ...] = (32, 64, 128, 256)
    size: int = 64
    batch: int = 16
    learning_rate: float = 4e-4
    average: float = 0.999
    drawn: float = 0.2
    seed: int = 0


# scikit-image's photographs that are no rectified or periodic oddities; two are for validation.
_SAMPLES = (
    "camera",
    "rocket",
    "chelsea",
    "coins",
    "retina",
    "immunohistochemistry",
    "hubble_deep_field",
)
_VALIDATION = ("astronaut", "coffee")
_N_DRAWN = 400
_WARM_UP = 300
_CLIP = 1.0
# Mean and standard deviation of ln σ, the noise's, of -1 to 1: what steps of a restoration see.
_LOG_NOISE = (-1.4, 1.3)
_SIGMAS = (15, 25, 50)


def make_model(plan: Plan) -> UNet2DModel:
    """Return the network, without attention: it restores images of any size."""
    levels = len(plan.widths)
    return UNet2DModel(
        sample_size=plan.size,
        in_channels=plan.channels,
        out_channels=plan.channels,
        block_out_channels=plan.widths,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        add_attention=False,
    )


def make_scheduler() -> DDPMScheduler:
    """Return the published schedule; the network predicts v, of unit variance at any noise."""
    return DDPMScheduler(1000, 1e-4, 0.02, "linear", prediction_type="v_prediction")


class Training:
    """A run that can be left and taken up again.

    Parameters
    ----------
    plan : its numbers.
    patches : to train on.
    folder : gets checkpoint.pt, log.jsonl, samples/ and model/.
    device : to train on.
    precision : dtype of the convolutions.

    Raises
    ------
    ValueError
        If the folder has a run of another plan.
    """

    def __init__(
        self,
        plan: Plan,
        patches: Patches,
        folder: Path,
        device: torch.device,
        precision: torch.dtype = torch.float32,
    ) -> None:
        torch.manual_seed(plan.seed)
        self._plan = plan
        self._patches = patches
        self._folder = folder
        self._device = device
        self._precision = precision
        self.scheduler = make_scheduler()
        alphas = self.scheduler.alphas_cumprod.double()
        self._log_sigmas = (((1 - alphas) / alphas).sqrt()).log()
        self._model = make_model(plan).to(device, memory_format=torch.channels_last)
        self._average = EMAModel(
            self._model.parameters(), plan.average, use_ema_warmup=True, power=0.75
        )
        self._optimiser = torch.optim.AdamW(
            self._model.parameters(),
            plan.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0,
            fused=True,
        )
        self.step = 0
        if self._checkpoint.exists():
            self._resume()

    def run(self, n_steps: int, validation: Tensor, every: int = 500) -> None:
        """Train up to step `n_steps`; log and save after each `every` steps, and at the end."""
        started, losses = time.monotonic(), []
        while self.step < n_steps:
            losses.append(self._descend(n_steps))
            self.step += 1
            if self.step % every == 0 or self.step == n_steps:
                entry = {
                    "step": self.step,
                    "loss": float(torch.stack(losses).mean()),
                    "seconds per step": (time.monotonic() - started) / len(losses),
                }
                self._average.store(self._model.parameters())
                self._average.copy_to(self._model.parameters())
                entry |= self.denoising(validation)
                self._hand_out()
                self._average.restore(self._model.parameters())
                self._save(entry)
                print(json.dumps(entry), flush=True)
                started, losses = time.monotonic(), []

    @torch.no_grad()
    def denoising(self, clean: Tensor) -> dict[str, float]:
        """Return PSNRs of `clean`, shape (N, C, H, W), denoised at several noise levels of 255."""
        figures = {}
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        for sigma in _SIGMAS:
            log_sigma = math.log(sigma / 127.5)
            time_step = torch.searchsorted(self._log_sigmas, log_sigma).expand(len(clean))
            noisy = self.scheduler.add_noise(clean, noise, time_step).to(self._device)
            velocity = self._predict(noisy, time_step.to(self._device)).cpu()
            alpha = self.scheduler.alphas_cumprod[time_step[0]]
            found = alpha.sqrt() * noisy.cpu() - (1 - alpha).sqrt() * velocity
            error = mse_loss(found.clamp(-1, 1), clean)
            figures[f"PSNR at {sigma}"] = round(-10 * math.log10(float(error) / 4), 3)
        return figures

    def _descend(self, n_steps: int) -> Tensor:
        plan = self._plan
        rise = min((self.step + 1) / _WARM_UP, 1.0)
        fall = min(5 * (n_steps - self.step) / n_steps, 1.0)
        for group in self._optimiser.param_groups:
            group["lr"] = plan.learning_rate * rise * fall
        clean = self._patches.batch(plan.batch)
        time_step = self._draw_times(len(clean))
        noise = torch.from_numpy(self._patches.generator.standard_normal(clean.shape, np.float32))
        noisy = self.scheduler.add_noise(clean, noise, time_step)
        target = self.scheduler.get_velocity(clean, noise, time_step)
        predicted = self._predict(noisy.to(self._device), time_step.to(self._device))
        loss = mse_loss(predicted, target.to(self._device))
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), _CLIP)
        self._optimiser.step()
        self._average.step(self._model.parameters())
        return loss.detach()

    def _draw_times(self, count: int) -> Tensor:
        draw = torch.from_numpy(self._patches.generator.normal(*_LOG_NOISE, count))
        return torch.searchsorted(self._log_sigmas, draw).clamp_(0, len(self._log_sigmas) - 1)

    def _predict(self, noisy: Tensor, time_step: Tensor) -> Tensor:
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._precision, self._precision != torch.float32):
            return self._model(noisy, time_step).sample.float()

    @torch.no_grad()
    def _hand_out(self) -> None:
        """Save the model in half precision, and pictures that it makes from noise."""
        target = self._folder / "model"
        half = make_model(self._plan)
        half.load_state_dict(self._model.state_dict())
        half.half().save_pretrained(target)
        self.scheduler.save_pretrained(target)
        sampler = DDIMScheduler.from_config(self.scheduler.config)
        sampler.set_timesteps(50)
        shape = (16, self._plan.channels, self._plan.size, self._plan.size)
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self._device)
        for time_step in sampler.timesteps:
            velocity = self._predict(image, time_step.expand(16).to(self._device))
            image = sampler.step(velocity, time_step, image).prev_sample
        rows = ((image.clamp(-1, 1) + 1) * 127.5).byte().cpu().permute(0, 2, 3, 1).chunk(4)
        grid = torch.cat([torch.cat(tuple(row), 1) for row in rows], 0).squeeze(-1).numpy()
        (self._folder / "samples").mkdir(exist_ok=True)
        Image.fromarray(grid).save(self._folder / "samples" / f"{self.step:07d}.png")

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "checkpoint.pt"

    def _save(self, entry: dict[str, float]) -> None:
        state = {
            "plan": asdict(self._plan),
            "step": self.step,
            "model": self._model.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "generator": json.dumps(self._patches.generator.bit_generator.state),
        }
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)
        with (self._folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, map_location=self._device, weights_only=True)
        if state["plan"] != asdict(self._plan):
            raise ValueError(
                f"out: expected a new folder, or one of a run with {asdict(self._plan)}; "
                f"got one with {state['plan']}"
            )
        self.step = state["step"]
        self._model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._patches.generator.bit_generator.state = json.loads(state["generator"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--grey", action="store_true", help="a model of one channel")
    options = parser.parse_args(arguments)
    plan = Plan(channels=1 if options.grey else 3)
    options.out.mkdir(parents=True, exist_ok=True)
    photographs = read_images(options.images) + sample_images(_SAMPLES)
    drawn = drawn_images(np.random.default_rng(plan.seed), _N_DRAWN)
    shares = (1 - plan.drawn, plan.drawn)
    patches = Patches([photographs, drawn], shares, plan.size, plan.channels, plan.seed)
    held_out = [sample_images(_VALIDATION)]
    validation = Patches(held_out, [1], 128, plan.channels, plan.seed).batch(8)
    device = resolve_device(options.device)
    precision = resolve_precision("auto", device)
    training = Training(plan, patches, options.out, device, precision)
    training.run(options.steps, validation)


if __name__ == "__main__":
    main()
