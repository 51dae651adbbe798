"""The model that ships is trained as its README says, and a run that was left goes on as if not."""

import json
import math
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1]))  # training is no part of the package

pytest.importorskip("diffusers")

from diffusers import DDPMScheduler, UNet2DModel

from napari_dkp.config import DiffusionConfig
from napari_dkp.diffusion.loading import load
from training import denoising, prior
from training.patches import Patches, drawn_images, read_images
from training.structures import KINDS, draw_structures

CPU = torch.device("cpu")


class TestStructures:
    @pytest.mark.parametrize("seed", range(8))
    def test_are_pictures(self, seed):
        picture = draw_structures(np.random.default_rng(seed), 64)
        assert picture.shape == (64, 64)
        assert picture.dtype == np.float32
        assert picture.min() >= 0
        assert picture.max() == 1

    def test_differ_by_seed_and_are_the_same_by_seed(self):
        one, again, other = (draw_structures(np.random.default_rng(s), 64) for s in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert np.abs(one - other).mean() > 0.01

    @pytest.mark.parametrize("draw", KINDS.values(), ids=KINDS)
    def test_of_each_kind_have_something_on_them(self, draw):
        layer = draw(np.random.default_rng(0), 64)
        assert layer.shape == (64, 64)
        assert layer.min() >= 0
        assert np.ptp(layer) > 0

    def test_make_colours_and_greys(self):
        pictures = drawn_images(np.random.default_rng(0), 12)
        assert all(picture.shape == (256, 256, 3) for picture in pictures)
        assert all(picture.dtype == np.uint8 for picture in pictures)
        grey = [bool((picture == picture[..., :1]).all()) for picture in pictures]
        assert {True, False} == set(grey)


def colourful(side=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


class TestPatches:
    def test_are_as_a_model_wants_them(self):
        batch = Patches([[colourful()]], [1], 16, 3, 0).batch(5)
        assert batch.shape == (5, 3, 16, 16)
        assert batch.dtype == torch.float32
        assert -1 <= batch.min() < -0.5
        assert 0.5 < batch.max() <= 1

    def test_of_one_channel_are_grey(self):
        assert Patches([[colourful()]], [1], 16, 1, 0).batch(2).shape == (2, 1, 16, 16)

    def test_are_the_same_by_seed(self):
        one, again, other = (Patches([[colourful()]], [1], 16, 3, s).batch(3) for s in (1, 1, 2))
        torch.testing.assert_close(one, again, atol=0, rtol=0)
        assert not torch.equal(one, other)

    def test_of_colours_are_grey_now_and_then(self):
        batch = Patches([[colourful()]], [1], 8, 3, 0).batch(600)
        grey = (batch == batch[:, :1]).flatten(1).all(1).float().mean()
        assert float(grey) == pytest.approx(0.15, abs=0.05)

    def test_come_from_each_list_as_often_as_asked(self):
        dark, bright = (np.full((20, 20, 3), value, np.uint8) for value in (0, 255))
        batch = Patches([[dark], [bright]], [3, 1], 8, 3, 0).batch(600)
        assert float((batch > 0).float().mean()) == pytest.approx(0.25, abs=0.06)

    def test_of_images_that_are_too_small_are_refused(self):
        assert Patches([[colourful(15), colourful(16)]], [1], 16, 3, 0).batch(1).shape[-1] == 16
        with pytest.raises(ValueError, match="images: expected some of at least 16 by 16"):
            Patches([[colourful(15)]], [1], 16, 3, 0)


class TestImages:
    def test_are_read_as_colours_by_name(self, tmp_path):
        colour, grey = colourful(), colourful()[..., 0]
        Image.fromarray(grey).save(tmp_path / "b.png")
        Image.fromarray(colour).save(tmp_path / "a.PNG")
        Image.fromarray(colour).convert("RGBA").save(tmp_path / "c.png")
        (tmp_path / "notes.txt").write_text("")
        first, second, third = read_images(tmp_path)
        np.testing.assert_array_equal(first, colour)
        np.testing.assert_array_equal(second, np.stack([grey] * 3, -1))
        np.testing.assert_array_equal(third, colour)

    @pytest.mark.parametrize("folder", ["empty", "missing"])
    def test_that_are_not_there_are_refused(self, folder, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(ValueError, match=rf"images: expected .*\.png.*{folder}"):
            read_images(tmp_path / folder)

    @pytest.mark.parametrize(
        "image",
        [np.zeros((20, 20), np.uint16), np.zeros((7, 20, 20), np.uint8)],
        ids=["16 bits", "stack"],
    )
    def test_of_another_kind_are_refused(self, image, tmp_path):
        import tifffile

        tifffile.imwrite(tmp_path / "one.tif", image)
        with pytest.raises(ValueError, match=r"images: expected 8-bit grey or RGB; got one\.tif"):
            read_images(tmp_path)


PLAN = prior.Plan(widths=(8, 8), size=16, batch=2)


def patches_of(plan):
    sources = [[colourful(seed=seed) for seed in range(2)]]
    return Patches(sources, [1], plan.size, plan.channels, plan.seed)


def training_in(folder, plan=PLAN):
    folder.mkdir(exist_ok=True)
    return prior.Training(plan, patches_of(plan), folder, CPU)


def validation_for(plan=PLAN):
    return patches_of(plan).batch(2)


def weights_of(folder):
    return UNet2DModel.from_pretrained(folder / "model", low_cpu_mem_usage=False).state_dict()


class TestTraining:
    def test_goes_on_as_if_it_had_not_been_left(self, tmp_path, monkeypatch):
        whole, parts = tmp_path / "whole", tmp_path / "parts"
        training_in(whole).run(5, validation_for(), every=2)
        left = training_in(parts)
        descend = left._descend

        def interrupted(n_steps):
            if left.step == 3:
                raise KeyboardInterrupt
            return descend(n_steps)

        monkeypatch.setattr(left, "_descend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            left.run(5, validation_for(), every=2)
        taken_up = training_in(parts)
        assert taken_up.step == 2
        taken_up.run(5, validation_for(), every=2)
        expected = torch.load(whole / "checkpoint.pt", weights_only=True)
        found = torch.load(parts / "checkpoint.pt", weights_only=True)
        assert found["step"] == expected["step"] == 5
        for name, weight in expected["model"].items():
            assert torch.equal(found["model"][name], weight), name
        for weight, other in zip(
            expected["average"]["shadow_params"], found["average"]["shadow_params"], strict=True
        ):
            assert torch.equal(weight, other)
        for name, weight in weights_of(whole).items():
            assert torch.equal(weights_of(parts)[name], weight), name

    def test_that_is_done_is_left_alone(self, tmp_path):
        training_in(tmp_path).run(1, validation_for())
        before = (tmp_path / "checkpoint.pt").stat().st_mtime_ns
        training_in(tmp_path).run(1, validation_for())
        assert (tmp_path / "checkpoint.pt").stat().st_mtime_ns == before

    def test_refuses_the_folder_of_another_plan(self, tmp_path):
        training_in(tmp_path).run(1, validation_for())
        other = prior.Plan(widths=(8, 8), size=16, batch=3)
        with pytest.raises(ValueError, match=r"out: expected a new folder.*'batch': 3.*'batch': 2"):
            training_in(tmp_path, other)

    def test_changes_the_weights_and_hands_out_their_average(self, tmp_path):
        training = training_in(tmp_path)
        before = [parameter.detach().clone() for parameter in training._model.parameters()]
        training.run(3, validation_for())
        handed_out = weights_of(tmp_path)
        averages = training._average.shadow_params
        named = training._model.named_parameters()
        for (name, now), then, average in zip(named, before, averages, strict=True):
            assert not torch.equal(now, then), name
            torch.testing.assert_close(handed_out[name], average.half().float(), atol=0, rtol=0)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_writes_what_is_read_again(self, channels, tmp_path):
        plan = prior.Plan(channels=channels, widths=(8, 8), size=16, batch=2)
        training_in(tmp_path, plan).run(3, validation_for(plan), every=2)
        scheduler = DDPMScheduler.from_pretrained(tmp_path / "model")
        assert scheduler.config.prediction_type == "v_prediction"
        model = load(DiffusionConfig(model=str(tmp_path / "model")), torch.float32, CPU)
        assert model.channels == channels
        clean = model.denoise(torch.zeros(1, channels, 13, 21), 100)
        assert clean.shape == (1, channels, 13, 21)
        assert clean.isfinite().all()
        entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in entries] == [2, 3]
        names = {"loss", "seconds per step", "PSNR at 15", "PSNR at 25", "PSNR at 50"}
        assert all(names < set(entry) and math.isfinite(entry["loss"]) for entry in entries)
        grids = sorted((tmp_path / "samples").iterdir())
        assert [grid.name for grid in grids] == ["0000002.png", "0000003.png"]
        with Image.open(grids[0]) as grid:
            assert grid.size == (64, 64)
            assert grid.mode == ("L" if channels == 1 else "RGB")

    def test_draws_noise_as_planned(self, tmp_path):
        training = training_in(tmp_path)
        drawn = training._log_sigmas[training._draw_times(4000)]
        mean, deviation = prior._LOG_NOISE
        assert float(drawn.mean()) == pytest.approx(mean, abs=0.1)
        assert float(drawn.std()) == pytest.approx(deviation, abs=0.1)

    def test_starts_from_the_command_line(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "images").mkdir()
        Image.fromarray(colourful()).save(tmp_path / "images" / "one.png")
        monkeypatch.setattr(prior, "Plan", partial(prior.Plan, widths=(8, 8), size=16, batch=2))
        monkeypatch.setattr(prior, "_SAMPLES", ("camera",))
        monkeypatch.setattr(prior, "_VALIDATION", ("coffee",))
        monkeypatch.setattr(prior, "_N_DRAWN", 2)
        arguments = ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "run")]
        prior.main([*arguments, "--steps", "1", "--device", "cpu"])
        assert json.loads(capsys.readouterr().out)["step"] == 1
        assert (tmp_path / "run" / "model" / "config.json").exists()


class TestDenoising:
    def test_of_a_known_image_is_perfect_and_of_none_is_the_noise(self):
        image = colourful(64).astype(float)
        figures = denoising.measure(
            [image, image], {"known": lambda noisy, _: image + 1, "noisy": lambda noisy, _: noisy}
        )
        assert figures["known"] == pytest.approx([20 * math.log10(255)] * 3)
        expected = [20 * math.log10(255 / sigma) for sigma in (15, 25, 50)]
        assert figures["noisy"] == pytest.approx(expected, abs=0.1)

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("known", [1, 3])
    def test_tells_the_model_the_noise_that_there_is(self, channels, known):
        seen = []

        class Model:
            channels = known

            def time_of(self, sigma):
                return round(1000 * sigma)

            def alpha(self, time):
                return 0.25

            def denoise(self, noisy, time):
                seen.append((noisy, time))
                return 2 * noisy

        noise = 25 * np.random.default_rng(0).standard_normal((90, 100, channels))
        clean = denoising.of_model(Model(), CPU)(127.5 + noise, 25)
        np.testing.assert_allclose(clean, 127.5 + noise, atol=1e-3)
        [(images, time)] = seen
        assert images.shape == (3 if (channels, known) == (3, 1) else 1, known, 90, 100)
        levels = (2 * images).transpose(0, 1).flatten(1)
        assert time == pytest.approx(1000 * float(levels.std()), rel=0.02)
        if known == 3:
            assert float(levels.corrcoef().sub(torch.eye(3)).abs().max()) < 0.05

    @pytest.mark.parametrize("channels", [1, 3])
    def test_smooths_by_nonlocal_means(self, channels):
        image = np.full((24, 24, channels), 100.0)
        image[:, 12:] = 200
        noisy = image + 25 * np.random.default_rng(0).standard_normal(image.shape)
        error = np.abs(denoising.nonlocal_means(noisy, 25) - image).mean()
        assert error < 0.5 * np.abs(noisy - image).mean()

    def test_reads_middles_and_scales_what_is_not_of_8_bits(self, tmp_path):
        import tifffile

        colour = colourful(20)
        Image.fromarray(colour).save(tmp_path / "colour.png")
        grey = np.arange(400, dtype=np.float32).reshape(20, 20)
        tifffile.imwrite(tmp_path / "grey.tif", grey)
        images = denoising.read_images([tmp_path], 8)
        np.testing.assert_array_equal(images["colour"], colour[6:14, 6:14])
        np.testing.assert_allclose(images["grey"][..., 0], 255 / 399 * grey[6:14, 6:14], rtol=1e-6)
        with pytest.raises(ValueError, match="images: expected"):
            denoising.read_images([tmp_path / "grey.txt"], 8)

    def test_writes_a_table(self, tmp_path, capsys):
        training_in(tmp_path / "run").run(1, validation_for())
        Image.fromarray(colourful(24)).save(tmp_path / "one.png")
        capsys.readouterr()
        output = tmp_path / "table.md"
        arguments = ["--model", str(tmp_path / "run" / "model"), "--images", str(tmp_path)]
        denoising.main([*arguments, "--device", "cpu", "--output", str(output)])
        text = output.read_text(encoding="utf-8")
        assert text in capsys.readouterr().out
        rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
        assert rows == ["colour", "noisy", "non-local means", "diffusion model"]
        assert str(tmp_path) not in text
