"""What a run hands out: immutable states on the way, a restoration at the end."""

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from napari_dkp.config import Settings

Array = TypeVar("Array")


class Stop(Enum):
    """Why a run is where it is; the value is the sentence a user reads."""

    RUNNING = "The run is under way."
    COMPLETED = "All steps were done."
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
    step, n_steps : steps done and planned, over all planes of the run.
    image : HR estimate of the plane at work. From `iter_restore`: numpy float32 in the input's
        intensity units, shape (sY, sX) or, with channels, their axis where the input had it.
    kernel : its point spread function, shape (K, K), non-negative, sums to 1.
    loss : objective of the image restorer at this step; its terms may change during a run.
    residual : root mean square of LR minus re-blurred HR image, in the intensity units of `image`;
        of the restorer's latest iterate, while `image` may be a running mean of iterates.
    stop : RUNNING until the last state.
    plane : index of the plane at work along the looped axes; () for a single plane.
    """

    step: int
    n_steps: int
    image: Array
    kernel: Array
    loss: float
    residual: float
    stop: Stop = Stop.RUNNING
    plane: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Restoration:
    """The result of `restore`.

    Attributes
    ----------
    image : float32, the input's axes and intensity units, spatial axes enlarged by the scale.
    kernel : float32 point spread function(s) in HR pixels, shape (looped axes ..., K, K).
    settings : resolved settings; repeat the run with them.
    seed, device, seconds : of this run; seconds of wall time.
    stop : why it ended.
    history : residual after each step, intensity units.
    known_kernel : True where the PSF was given and only the image was restored.
    """

    image: "np.ndarray"
    kernel: "np.ndarray"
    settings: "Settings"
    seed: int
    device: str
    seconds: float
    stop: Stop
    history: tuple[float, ...]
    known_kernel: bool = False
