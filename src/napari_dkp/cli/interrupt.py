"""Ctrl-C, taken as a wish."""

import signal


class Interrupt:
    """Turns the first Ctrl-C, or a scheduler's SIGTERM, into a wish to stop after this step.

    Before there is a state to keep, and at the second time, it is a KeyboardInterrupt.

    Attributes
    ----------
    asked : whether there is that wish.
    has_state : whether there is something to keep.
    """

    def __init__(self, *, has_state: bool = False) -> None:
        self.asked = False
        self.has_state = has_state

    def __call__(self, *_: object) -> None:
        """Take a signal."""
        if self.asked or not self.has_state:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> "Interrupt":
        self._before = {n: signal.signal(n, self) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
