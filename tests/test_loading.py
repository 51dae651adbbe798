"""Where diffusion models come from, and what is said of those that cannot be used."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from guided_reference import Guided, forward, random_weights
from tiny_diffusion import diffusers, network, save, saved

from napari_dkp.config import SHIPPED_MODEL, DiffusionConfig
from napari_dkp.diffusion import checkpoint, guided_structure, loading
from napari_dkp.diffusion.guided_structure import Untold
from napari_dkp.diffusion.loading import check, load
from napari_dkp.diffusion.model import DiffusionModel
from napari_dkp.diffusion.names import describe, find

CPU = torch.device("cpu")
TIME = 300


@pytest.fixture(autouse=True)
def nothing_kept():
    loading._load.cache_clear()
    yield
    loading._load.cache_clear()


def model_of(source: object, **config: object) -> DiffusionModel:
    return load(DiffusionConfig(model=str(source), **config), torch.float32, CPU)


def refused(source: object, match: str, **config: object) -> None:
    """Both before a run and at its start, and in the same words."""
    config = DiffusionConfig(model=str(source), **config)
    for refuses in (check, lambda config: load(config, torch.float32, CPU)):
        with pytest.raises(ValueError, match=match):
            refuses(config)


def noisy(channels: int = 3, side: int = 16) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


def predicted(model: DiffusionModel, image: torch.Tensor) -> torch.Tensor:
    """The noise that a model finds in an image, from what it leaves of it."""
    alpha = model.alpha(TIME)
    return (image - alpha**0.5 * model.denoise(image, TIME)) / (1 - alpha) ** 0.5


# Folders


@pytest.mark.parametrize("parts", [False, True], ids=["in one", "a folder each"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_folder_of_diffusers_is_read(tmp_path, parts, channels):
    model = model_of(saved(tmp_path, parts=parts, channels=channels))
    with torch.no_grad():
        expected = network(channels)(noisy(channels), TIME).sample
    assert model.channels == channels
    torch.testing.assert_close(predicted(model, noisy(channels)), expected, atol=1e-5, rtol=1e-4)


def test_the_schedule_is_that_of_the_folder(tmp_path):
    folder = saved(tmp_path)
    cosine = diffusers.DDPMScheduler(50, beta_schedule="squaredcos_cap_v2")
    cosine.save_pretrained(folder)
    model = model_of(folder)
    assert model.alpha(49) == pytest.approx(float(cosine.alphas_cumprod[49]))
    assert model.time_of(1e9) == 49


def test_half_precision_on_disk_is_computed_in_full(tmp_path):
    save(network().half(), saved(tmp_path))
    model = model_of(tmp_path)
    assert {weight.dtype for weight in model._network.parameters()} == {torch.float32}
    assert model.denoise(noisy(), TIME).dtype == torch.float32


def test_a_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    saved(tmp_path / "mine")
    assert model_of("~/mine").channels == 3


def rewrite(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("missing", ["config.json", "scheduler_config.json"])
@pytest.mark.parametrize("parts", [False, True], ids=["in one", "a folder each"])
def test_a_folder_without_one_of_its_files_is_refused(tmp_path, missing, parts):
    folder = saved(tmp_path / "net", parts=parts)
    next(folder.rglob(missing)).unlink()
    refused(folder, rf"^model: expected a folder that diffusers saved, with '{missing}'; .*net'")


def test_a_folder_of_anything_else_is_refused(tmp_path):
    refused(tmp_path, "^model: expected a folder that diffusers saved, with 'config.json'")


def test_networks_of_other_kinds_are_refused(tmp_path):
    folder = saved(tmp_path)
    rewrite(folder / "config.json", _class_name="UNet2DConditionModel")
    refused(folder, "^model: expected an unconditional UNet2DModel; .* has a UNet2DConditionModel")


def test_a_settings_file_that_is_no_json_is_refused(tmp_path):
    folder = saved(tmp_path)
    (folder / "config.json").write_text("{")
    refused(folder, "^model: ")


def test_schedules_without_betas_are_refused(tmp_path):
    """They know noise that is not bounded: that of other models."""
    folder = saved(tmp_path)
    diffusers.ScoreSdeVeScheduler().save_pretrained(folder)
    refused(folder, "^model: expected a schedule .*; .* has a ScoreSdeVeScheduler")


def test_a_folder_without_weights_is_refused_in_a_sentence(tmp_path):
    folder = saved(tmp_path)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^model: .*diffusion_pytorch_model") as error:
        model_of(folder)
    assert "\n" not in str(error.value)


def test_weights_cut_short_are_refused_in_a_sentence(tmp_path):
    weights = saved(tmp_path) / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"^model: ") as error:
        model_of(tmp_path)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_refused_in_a_sentence(tmp_path):
    rewrite(saved(tmp_path) / "config.json", block_out_channels=[8, 24])
    with pytest.raises(ValueError, match=r"^model: .*another network") as error:
        model_of(tmp_path)
    assert "\n" not in str(error.value)


def test_attention_of_old_folders_is_read(tmp_path):
    """Its weights had other names before diffusers 0.15, and were no safetensors."""
    folder = saved(tmp_path, block="Attn")
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = checkpoint.read_weights(file)
    file.unlink()
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, value in weights.items():
        for new, former in names.items():
            name = name.replace(f".{new}.", f".{former}.")
        old[name] = value
    assert set(old) != set(weights)
    torch.save(old, folder / "diffusion_pytorch_model.bin")
    with torch.no_grad():
        expected = network(block="Attn")(noisy(), TIME).sample
    torch.testing.assert_close(predicted(model_of(folder), noisy()), expected, atol=1e-5, rtol=1e-4)


def test_networks_made_meanwhile_keep_their_initial_values(tmp_path, monkeypatch):
    """An image network is made in one thread while a model is read in another."""
    made = []
    read = diffusers.UNet2DModel.from_config

    def meanwhile(*arguments, **options):
        torch.manual_seed(0)
        thread = threading.Thread(target=lambda: made.append(torch.nn.Linear(4, 4)))
        thread.start()
        thread.join()
        return read(*arguments, **options)

    monkeypatch.setattr(diffusers.UNet2DModel, "from_config", meanwhile)
    model_of(saved(tmp_path))
    torch.manual_seed(0)
    torch.testing.assert_close(made[0].weight, torch.nn.Linear(4, 4).weight)


@pytest.mark.parametrize(("into", "out"), [(2, 2), (4, 4), (3, 4)])
def test_networks_of_other_channels_are_refused(tmp_path, into, out):
    folder = saved(tmp_path, in_channels=into, out_channels=out)
    with pytest.raises(ValueError, match=f"^model: .*1 or 3 channels.* from {into} to {out}$"):
        model_of(folder)


def test_a_network_that_tells_its_variance_may_be_used(tmp_path):
    model = model_of(saved(tmp_path, out_channels=6))
    assert model.denoise(noisy(), TIME).shape == (2, 3, 16, 16)


# Windows


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({}, 512),
        ({"block": "Attn"}, 16),
        ({"block": "Attn", "sample_size": (24, 16)}, 16),
        ({"block": "Attn", "sample_size": None}, 512),
    ],
    ids=["convolutions", "attention", "two sides", "no size told"],
)
def test_attention_sees_as_much_as_in_training(tmp_path, changes, window):
    model = model_of(saved(tmp_path, **changes))
    assert (model._window, model._shrinks) == (window, "block" not in changes)
    assert model.denoise(noisy(side=20), TIME).shape == (2, 3, 20, 20)


# Classes


@pytest.mark.parametrize("label", [0, 4])
def test_a_class_is_that_of_the_network(tmp_path, label):
    model = model_of(saved(tmp_path, num_class_embeds=5), class_label=label)
    with torch.no_grad():
        net = network(num_class_embeds=5)
        expected = net(noisy(), TIME, torch.tensor([label, label])).sample
    torch.testing.assert_close(predicted(model, noisy()), expected, atol=1e-5, rtol=1e-4)


def test_classes_that_a_network_does_not_know_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^class_label: expected 0 to 4; got 5"):
        model_of(saved(tmp_path / "five", num_class_embeds=5), class_label=5)
    with pytest.raises(ValueError, match=r"^class_label: expected None, .*no classes; got 0"):
        model_of(saved(tmp_path / "none"), class_label=0)


def test_a_network_that_has_to_be_told_a_class_is_not_run_without(tmp_path):
    with pytest.raises(
        ValueError, match=r"^class_label: expected 0 to 4, .*told a class; got None"
    ):
        model_of(saved(tmp_path, num_class_embeds=5))


# Checkpoints of guided-diffusion

TINY = Guided()
TIMES = torch.tensor([TIME, TIME])


def compare(model: DiffusionModel, output: torch.Tensor) -> None:
    """Compare with what the network hands back of the noise, and of its variance."""
    alpha = model.alpha(TIME)
    clean = (noisy() - (1 - alpha) ** 0.5 * output[:, :3]) / alpha**0.5
    expected = clean.clamp(-1, 1)  # as guided-diffusion does
    torch.testing.assert_close(model.denoise(noisy(), TIME), expected, atol=1e-3, rtol=1e-3)


@pytest.fixture
def published(monkeypatch):
    """Count the tiny networks among the published ones."""
    key = (TINY.width, TINY.multipliers, TINY.res_blocks, len(TINY.attention))
    untold = Untold(head_channels=TINY.head_channels)
    monkeypatch.setitem(guided_structure._PUBLISHED, key, untold)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_checkpoint_of_guided_diffusion_is_read(tmp_path, published, ending):
    weights = random_weights(TINY)
    file = tmp_path / f"net.{ending}"
    if ending == "pt":
        torch.save(weights, file)
    else:
        pytest.importorskip("safetensors.torch").save_file(weights, file)
    compare(model_of(file), forward(TINY, weights, noisy(), TIMES))


def test_no_class_is_chosen_unless_one_is(tmp_path, published):
    net = replace(TINY, classes=5)
    weights = random_weights(net)
    torch.save(weights, tmp_path / "net.pt")
    for chosen, label in ((None, None), (2, torch.tensor([2, 2]))):
        model = model_of(tmp_path / "net.pt", class_label=chosen)
        compare(model, forward(net, weights, noisy(), TIMES, label))


def test_a_checkpoint_of_another_kind_is_refused(tmp_path):
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"^model: .*'net.pt' has others, .*'conv.weight'"):
        model_of(tmp_path / "net.pt")


def test_a_checkpoint_of_unknown_structure_is_refused(tmp_path):
    torch.save(random_weights(TINY), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"^model: .*attention heads"):
        model_of(tmp_path / "net.pt")


def test_a_published_name_with_other_bytes_is_refused(tmp_path, published):
    file = tmp_path / "256x256_diffusion_uncond.pt"
    torch.save(random_weights(TINY), file)
    with pytest.raises(ValueError, match=r"^model: .*SHA-256"):
        model_of(file)


# Names


@pytest.mark.parametrize("name", ["smal", "no/such/folder", "/nowhere/net.pt", "a b/c", "~x"])
def test_what_is_neither_there_nor_a_name_of_the_hub_is_refused(name):
    refused(name, "^model: expected 'small', a folder, .* does not exist$")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that cannot be reached, and whose calls are kept; answers with `folder`, if set."""
    import huggingface_hub

    class Hub:
        folder: Path | None = None
        error: Exception = huggingface_hub.errors.LocalEntryNotFoundError("none\nat all")

        def __init__(self) -> None:
            self.calls: list[dict[str, object]] = []

        def __call__(self, name: str, **options: object) -> str:
            self.calls.append({"name": name, **options})
            if self.folder is None:
                raise self.error
            return str(self.folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", found := Hub())
    return found


def test_a_model_of_the_hub_that_is_not_here_is_not_fetched_unasked(hub):
    refused("owner/name", r"^model: 'owner/name' is not on this machine; download=True fetches it")
    assert hub.calls
    assert all(call["local_files_only"] for call in hub.calls)


def test_without_a_network_it_is_said_all_the_same(monkeypatch, tmp_path):
    import huggingface_hub

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", reached)
    refused("owner/name", "^model: 'owner/name' is not on this machine")


def test_a_model_of_the_hub_that_is_here_is_read(hub, tmp_path):
    hub.folder = saved(tmp_path)
    check(DiffusionConfig(model="owner/name"))
    assert model_of("owner/name").channels == 3
    assert {call["name"] for call in hub.calls} == {"owner/name"}
    assert all(call["local_files_only"] for call in hub.calls)


def test_a_download_is_for_the_run_and_not_for_its_check(hub, tmp_path):
    config = DiffusionConfig(model="owner/name", download=True)
    check(config)
    assert not hub.calls
    hub.folder = saved(tmp_path)
    assert load(config, torch.float32, CPU).channels == 3
    assert [call["local_files_only"] for call in hub.calls] == [False]


@pytest.mark.parametrize("kind", ["LocalEntryNotFoundError", "OfflineModeIsEnabled"])
def test_a_download_that_fails_is_said_in_a_sentence(hub, kind):
    import huggingface_hub

    hub.error = getattr(huggingface_hub.errors, kind)("no way\nthere")
    with pytest.raises(ValueError, match=r"^model: 'owner/name' could not be fetched") as error:
        model_of("owner/name", download=True)
    assert "no way" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("package", ["diffusers", "safetensors"])
def test_a_missing_package_is_named_with_its_remedy(monkeypatch, package):
    found = loading.find_spec
    monkeypatch.setattr(loading, "find_spec", lambda name: None if name == package else found(name))
    refused("small", rf"^method: .*{package} is not installed.*pip install napari-dkp\[diffusion\]")


# The one that was last used is kept


def test_a_model_is_read_once_for_all_planes_and_settings(tmp_path):
    folder = saved(tmp_path)
    first = model_of(folder)
    assert model_of(folder, trust=2.0, samples=3, sampler="ddpm") is first
    assert model_of(folder, class_label=None) is first


def test_what_makes_another_model_is_read_anew(tmp_path):
    folder = saved(tmp_path, num_class_embeds=3)
    first = model_of(folder, class_label=1)
    assert model_of(folder, class_label=0) is not first
    config = DiffusionConfig(model=str(folder), class_label=0)
    assert load(config, torch.bfloat16, CPU) is not load(config, torch.float32, CPU)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"diffusion_pytorch_model.bin": 1_500_000}, "A folder, 1.5 MB of weights."),
        (
            {"unet/diffusion_pytorch_model.safetensors": 2 * 10**6, "other.pt": 10**6},
            "A folder, 2.0 MB of weights.",
        ),
        ({"config.json": 10, "optimiser.pt": 10}, "A folder without weights."),
    ],
)
def test_a_folder_is_described_by_its_weights(tmp_path, files, words):
    for name, size in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert describe(str(tmp_path)) == words


def test_what_is_shipped_is_described_as_it_is():
    from diffusers import UNet2DModel

    network = UNet2DModel.from_config(UNet2DModel.load_config(find(SHIPPED_MODEL)))
    millions = sum(weights.numel() for weights in network.parameters()) / 1e6
    assert f"{millions:.1f} million parameters" in describe(SHIPPED_MODEL)
