from dataclasses import asdict, fields, replace

import pytest
from qtpy.QtCore import Qt

from napari_dkp._napari.form import Form
from napari_dkp._napari.model_choice import ModelChoice
from napari_dkp._napari.wording import ENTRIES
from napari_dkp.config import (
    PRESETS,
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

CONFIGS = (RKSConfig, PKEConfig, SearchConfig, DIPConfig, DiffusionConfig, RichardsonLucyConfig)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_form_asks_for_every_field_and_starts_at_its_default(qtbot, kind):
    form = Form(kind)
    qtbot.addWidget(form)
    assert list(form.editors) == [entry.name for entry in fields(kind)]
    assert kind(**form.values()) == kind()


def test_settings_are_asked_for_but_for_what_has_its_own_form(qtbot):
    form = Form(Settings, ENTRIES[Settings])
    qtbot.addWidget(form)
    configs = {"optics", "noise", "rks", "pke", "search", "dip", "diffusion", "richardson_lucy"}
    assert set(form.editors) == {f.name for f in fields(Settings)} - configs
    defaults = {name: getattr(Settings(), name) for name in form.editors}
    assert form.values() == defaults


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("preset", PRESETS)
def test_forms_hold_the_numbers_of_every_preset(qtbot, kind, preset):
    form = Form(kind)
    qtbot.addWidget(form)
    resolved = Settings(preset=preset).resolve()
    values = (getattr(resolved, entry.name) for entry in fields(resolved))
    config = next(value for value in values if isinstance(value, kind))
    form.set_values(config)
    assert kind(**form.values()) == config


def test_unusual_values_survive(qtbot):
    config = replace(
        RKSConfig(), gaussian_variance=(0.175, 7.25), path_extent=None, confidence=0.00125
    )
    form = Form(RKSConfig)
    qtbot.addWidget(form)
    form.set_values(config)
    assert RKSConfig(**form.values()) == config
    hidden = PKEConfig(hidden=(300, 200), learning_rate=1e-7)
    form = Form(PKEConfig)
    qtbot.addWidget(form)
    form.set_values(hidden)
    assert PKEConfig(**form.values()) == hidden
    other = DiffusionConfig(
        model="owner/name",
        class_label=0,
        download=True,
        sampler="ddim",
        data_step="gradient",
        samples=7,
        seek=(0.015, 3.5),
        first=150.0,
        last=0.0125,
        trust=1e-3,
        noise=2.5e-4,
    )
    form = Form(DiffusionConfig)
    qtbot.addWidget(form)
    form.set_values(other)
    assert form.config() == other
    settings = Settings(scale=(3, 3), kernel_size=(15, 15), seed=2**62, axes="CYX", device="cuda:7")
    form = Form(Settings, ENTRIES[Settings])
    qtbot.addWidget(form)
    form.set_values(settings.resolve())
    expected = asdict(replace(settings, scale=3, kernel_size=15).resolve())
    assert form.values() == {name: expected[name] for name in form.editors}


@pytest.mark.parametrize(
    "config",
    [
        OpticsConfig(numerical_aperture=1.41, wavelength=525, pixel_size=62.6),
        NoiseConfig(gain=0.25, offset=-3, read_noise=1.5),
        NoiseConfig(gain=2.0),
    ],
)
def test_what_is_not_known_makes_no_config(qtbot, config):
    form = Form(type(config))
    qtbot.addWidget(form)
    assert form.config() is None
    form.set_values(config)
    assert form.config() == config
    form.set_values(None)
    assert form.config() is None


def test_half_known_optics_count_as_unknown(qtbot):
    form = Form(OpticsConfig)
    qtbot.addWidget(form)
    form.editors["wavelength"].set_value(525)
    form.editors["pixel_size"].setValue(60)
    assert form.config() is None
    assert form.editors["numerical_aperture"].text() == "unknown"
    form.editors["numerical_aperture"].setValue(1.2)
    assert form.config() == OpticsConfig(numerical_aperture=1.2, wavelength=525, pixel_size=60)


def test_nonsense_is_named(qtbot):
    form = Form(RKSConfig)
    qtbot.addWidget(form)
    form.editors["line_width"].setText("wide")
    with pytest.raises(ValueError, match="Motion width: expected numbers"):
        form.values()
    form.editors["line_width"].setText("3, 1")
    with pytest.raises(ValueError, match="line_width: expected low <= high"):
        RKSConfig(**form.values())


def test_a_scale_per_axis_is_beyond_the_form(qtbot):
    form = Form(Settings, ["scale"])
    qtbot.addWidget(form)
    with pytest.raises(ValueError, match="one number for all axes"):
        form.set_values(Settings(scale=(1, 2)))


def test_every_field_is_explained_in_a_sentence():
    for entries in ENTRIES.values():
        for entry in entries.values():
            assert entry.tip.endswith(".")
            assert len(entry.label) <= 16


def test_numbers_are_written_short(qtbot):
    form = Form(DIPConfig)
    qtbot.addWidget(form)
    assert form.editors["gradient_weight"].text() == "0.001"


@pytest.fixture
def choice(qtbot):
    choice = ModelChoice()
    qtbot.addWidget(choice)
    return choice


def heard(choice):
    values = []
    choice.edited.connect(lambda: values.append(choice.value()))
    return values


@pytest.mark.parametrize(
    ("button", "dialog"), [("folder", "getExistingDirectory"), ("file", "getOpenFileName")]
)
def test_a_model_is_picked(choice, monkeypatch, button, dialog):
    answers = iter(["/models/church", "", "/models/faces.pt"])

    def ask(*_):
        answer = next(answers)
        return answer if dialog == "getExistingDirectory" else (answer, "Weights")

    monkeypatch.setattr(f"qtpy.QtWidgets.QFileDialog.{dialog}", ask)
    values = heard(choice)
    for _ in range(3):
        getattr(choice, button).click()
    # The dialog that was closed without an answer changes nothing.
    assert values == ["/models/church", "/models/faces.pt"]
    assert choice.value() == "/models/faces.pt"
    assert choice.names.toolTip() == "/models/faces.pt"


def test_a_model_is_typed(choice, qtbot):
    values = heard(choice)
    line = choice.names.lineEdit()
    line.clear()
    qtbot.keyClicks(line, "  google/ddpm ")
    assert values == []
    qtbot.keyClick(line, Qt.Key.Key_Return)
    assert values[-1] == "google/ddpm"


def test_a_name_that_begins_as_another_stays_as_typed(choice, qtbot):
    choice.set_value("google/ddpm-church-256")
    line = choice.names.lineEdit()
    line.clear()
    qtbot.keyClicks(line, "google/ddpm")
    qtbot.keyClick(line, Qt.Key.Key_Return)
    assert choice.value() == "google/ddpm"


def test_models_that_were_picked_are_listed_once(choice):
    for name in ("/a", "small", "/a", "/b"):
        choice.set_value(name)
        assert choice.value() == name
    assert choice.names.count() == 3


def test_a_model_is_described(choice, tmp_path):
    assert "9.7 million" in choice.about.text()
    file = tmp_path / "faces.pt"
    file.write_bytes(bytes(2_500_000))
    described = {
        str(file): "checkpoint, 2.5 MB",
        "owner/name": "as a name of the Hugging Face hub",
        "/nowhere/x": "No such file",
        "": "No such file",
    }
    for name, words in described.items():
        choice.set_value(name)
        assert words in choice.about.text()
        assert "openai/guided-diffusion" in choice.about.text()


def test_the_shipped_model_is_legible_in_a_narrow_dock(qtbot):
    form = Form(DiffusionConfig)
    qtbot.addWidget(form)
    form.resize(350, 500)
    form.show()
    editor = form.editors["model"]
    line = editor.names.lineEdit()
    assert line.fontMetrics().horizontalAdvance(line.text()) < line.width()
    for button in (editor.folder, editor.file):
        assert button.width() >= button.sizeHint().width()
