"""Pause, resume, and what may happen meanwhile."""

import threading

import numpy as np
import pytest

from napari_dkp._napari import job, worker
from napari_dkp._napari.layers import METADATA_KEY
from napari_dkp._napari.widget import RestoreWidget

HR = "cells [DKP ×2]"


@pytest.fixture
def paused(restorer, qtbot, fake_run, monkeypatch):
    """A viewer, the widget, and its run, which waits."""
    viewer, widget = restorer
    monkeypatch.setattr(job, "INTERVAL", 0.02)
    fake_run.delay = 0.005
    widget.form.advanced.editors["iterations"].set_value(10_000)
    widget.restore()
    qtbot.waitUntil(lambda: HR in viewer.layers)
    widget.panel.pause.click()
    assert widget.panel.pause.text() == "Resume"
    qtbot.waitUntil(lambda: widget.panel.status.text().startswith("Paused. Step "))
    return viewer, widget, fake_run.runs[0]


def test_a_paused_run_does_nothing_and_goes_on(paused, qtbot):
    _, widget, run = paused
    done = run.done
    qtbot.wait(100)
    assert run.done == done
    assert widget.panel.stop.isEnabled()
    assert not widget.panel.restore.isEnabled()
    widget.panel.pause.click()
    assert widget.panel.pause.text() == "Pause"
    qtbot.waitUntil(lambda: run.done > done + 5)
    qtbot.waitUntil(lambda: widget.panel.status.text().startswith("Step "))
    widget.stop()


def test_nothing_turns_while_a_run_waits(paused, monkeypatch):
    """The thread sleeps until it is woken; it does not look again and again."""
    waits = []
    wait = threading.Event.wait
    monkeypatch.setattr(
        threading.Event, "wait", lambda *args: waits.append(args) or wait(*args), raising=True
    )
    _, widget, _ = paused
    threading.Event().wait(0.1)
    assert len(waits) == 1
    widget.stop()


def test_stop_ends_a_run_that_waits(paused, idle):
    viewer, widget, run = paused
    widget.panel.stop.click()
    idle()
    assert run.closed
    facts = viewer.layers[HR].metadata[METADATA_KEY]
    assert (facts["stop"], facts["steps"]) == ("CANCELLED", run.done)
    np.testing.assert_array_equal(viewer.layers[HR].data, run.enlarged)
    assert widget.panel.pause.text() == "Pause"
    assert not widget.panel.pause.isEnabled()
    assert widget.panel.restore.isEnabled()


def test_the_pause_does_not_count_as_time_taken(paused, qtbot, idle):
    viewer, widget, run = paused
    qtbot.wait(1500)
    widget.stop()
    idle()
    # Generous: each step takes five milliseconds, and the machine may be busy.
    assert viewer.layers[HR].metadata[METADATA_KEY]["seconds"] < 0.05 * run.done + 1


def test_the_dock_may_be_closed_while_a_run_waits(paused, idle):
    viewer, widget, run = paused
    viewer.window.remove_dock_widget(widget)
    idle()
    assert run.closed
    assert HR in viewer.layers


def test_napari_may_be_closed_while_a_run_waits(paused, idle):
    viewer, _, run = paused
    viewer.close()
    idle()
    assert run.closed


def test_workers_that_napari_quits_end_although_they_wait(paused, idle):
    viewer, widget, run = paused
    viewer.window._task_status_manager.cancel_all()
    idle()
    assert run.closed
    assert worker._active is None
    assert widget.panel.restore.isEnabled()


def test_a_run_after_a_paused_one_is_not_paused(paused, idle, qtbot, fake_run):
    viewer, widget, _ = paused
    widget.stop()
    idle()
    widget.form.advanced.editors["iterations"].set_value(3)
    again = RestoreWidget(viewer)
    qtbot.addWidget(again)
    for each in (widget, again):
        each.restore()
        idle()
        assert each.panel.status.text().startswith("The restoration is complete.") or each is again
