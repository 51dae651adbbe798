"""What a run hands out: immutable states on the way, a restoration at the end."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from napari_dkp.config import Settings
    from napari_dkp.report import Report

Array = TypeVar("Array")


class Stop(Enum):
    """Why a run is where it is; the value is the sentence a user reads."""

    RUNNING = "The run is under way."
    COMPLETED = "The restoration is complete."
    CANCELLED = "The run was stopped before its last step; this is the last state."
    DIVERGED = "The fit diverged; this is the last state with finite values."

    @property
    def sentence(self) -> str:
        """The reason in words."""
        return self.value


@dataclass(frozen=True, slots=True, eq=False)
class State(Generic[Array]):
    """One step of a run; the arrays are never written again.

    Attributes
    ----------
    step, n_steps : steps done and planned, over all planes of the run; the plan may change. Of
        several states in which a kernel settles before there is an image it is the same, at first
        0.
    image : HR estimate of the plane at work. From `iter_restore`: numpy float32 in the input's
        intensity units, shape and axes as those of one of its planes or volumes, spatial
        axes enlarged; it leaves the device when it is first looked at.
    kernel : its point spread function, shape (*K,), non-negative, sums to 1.
    loss : objective of the image restorer at this step; its terms may change during a run.
    residual : root mean square of LR minus re-blurred HR image, in the intensity units of `image`;
        in the search of the fit under way, while `image` is that of the latest finished one. Not a
        number, as `loss`, while a kernel settles.
    stop : RUNNING until the last state.
    plane : index of the plane at work along the looped axes; () for a single plane.
    searching : True while the kernel is sought apart from the image. That image is of a small
        network, which is given up for a better one, or waits while kernels are tried.
    report : on the plane, with its last state; else None.
    done : True with the last state of a plane. Where planes are restored together, each has one,
        after the same step.
    note : what a user should know of how the run goes on; mostly empty.
    own_step, own_steps : the same as `step` and `n_steps`, but of the planes at work, or of the
        search in pieces of planes.
    together : planes that are restored at once, as many as this step is of.
    """

    step: int
    n_steps: int
    image: Array
    kernel: Array
    loss: float
    residual: float
    stop: Stop = Stop.RUNNING
    plane: tuple[int, ...] = ()
    searching: bool = False
    report: "Report | None" = None
    done: bool = False
    note: str = ""
    own_step: int = 0
    own_steps: int = 0
    together: int = 1


class Unfetched(State[Array]):
    """A state whose arrays stay on their device until one is looked at: few states ever are."""

    __slots__ = ("_fetch",)

    _fetch: Callable[[], tuple[Array, Array]] | None

    @classmethod
    def of(cls, fetch: Callable[[], tuple[Array, Array]], **values: Any) -> "Unfetched[Array]":
        """Return a state of these values; its image and its kernel are what `fetch` returns."""
        state = cls.__new__(cls)
        for name, value in {"_fetch": fetch, **_USUAL, **values}.items():
            object.__setattr__(state, name, value)
        return state

    def __getattr__(self, name: str) -> Any:
        # Python comes here for slots that are still empty; two threads may fetch the same.
        if name not in ("image", "kernel"):
            raise AttributeError(name)
        fetch = self._fetch
        if fetch is not None:
            image, kernel = fetch()
            object.__setattr__(self, "image", image)
            object.__setattr__(self, "kernel", kernel)
            object.__setattr__(self, "_fetch", None)
        return object.__getattribute__(self, name)


_USUAL = {each.name: each.default for each in fields(State) if each.default is not MISSING}


@dataclass(frozen=True, slots=True, eq=False)
class Restoration:
    """The result of `restore`.

    Attributes
    ----------
    image : float32, the input's axes and intensity units, spatial axes enlarged by the scale.
    kernel : float32 point spread function(s) in HR pixels, shape (looped axes ..., *K).
    settings : resolved settings; repeat the run with them.
    seed, device, seconds : of this run; seconds of wall time.
    stop : why it ended.
    history : residual after each step of the restoration proper, or of the search where the run was
        stopped in it; intensity units.
    steps : number of the last step, as in `State.step`: the search counts.
    known_kernel : True where the PSF was given and only the image was restored.
    choice : in words, what "auto" took for this image and why; empty where nothing was "auto".
    notes : what was done otherwise than planned, such as smaller tiles where memory ran out.
    reports : one per plane, in the order of the looped axes; None for planes that the run did not
        complete, or that are without contrast. ``print(result.reports[0])``.
    residual, uncertainty : of every pixel, see `report.Report`: the source's and the image's axes;
        not a number in planes without a report. None unless `Settings.diagnostics` asked for them
        and a plane was completed; the latter also where neither photons are counted nor
        several images drawn.
    """

    image: "np.ndarray"
    kernel: "np.ndarray"
    settings: "Settings"
    seed: int
    device: str
    seconds: float
    stop: Stop
    history: tuple[float, ...]
    steps: int
    known_kernel: bool = False
    choice: str = ""
    notes: tuple[str, ...] = ()
    reports: "tuple[Report | None, ...]" = ()
    residual: "np.ndarray | None" = None
    uncertainty: "np.ndarray | None" = None
