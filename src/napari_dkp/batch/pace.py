"""How long a batch may still take."""

from time import perf_counter


class Pace:
    """Tells from what is done how long the rest takes: files that wait count as those before."""

    def __init__(self) -> None:
        self._began = 0.0
        self._files: list[float] = []

    def begin(self) -> None:
        """Note that steps begin."""
        self._began = perf_counter()

    def leave_out(self, seconds: float) -> None:
        """Take seconds that just passed as not worked, as those of a pause."""
        self._began += seconds

    def end(self) -> None:
        """Note that a file is done."""
        self._files.append(perf_counter() - self._began)

    def left(self, step: int, n_steps: int, waiting: int) -> float:
        """Return seconds until all is done.

        Parameters
        ----------
        step, n_steps : done, and likely, of the file at work.
        waiting : files that come after it.
        """
        elapsed = perf_counter() - self._began
        left = elapsed * (n_steps - step) / max(step, 1)
        each = [*self._files, elapsed + left]
        return left + waiting * sum(each) / len(each)
