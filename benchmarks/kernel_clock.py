"""How long a run's kernel takes: RKS and PKE, with all that they settle on before an image."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from time import perf_counter
from typing import Any
from unittest.mock import patch

from napari_dkp.kernel_prior import DynamicKernelPrior
from napari_dkp.parts import Parts


class KernelClock:
    """Adds up the time that calls take.

    Attributes
    ----------
    seconds : so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time spent within."""
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - began

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and is counted."""

        @wraps(call)
        def counted(*arguments: Any, **options: Any) -> Any:
            with self.running():
                return call(*arguments, **options)

        return counted

    def timed_generator(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same for a function that yields: who iterates is not counted."""

        @wraps(call)
        def counted(*arguments: Any, **options: Any) -> Generator[Any, None, Any]:
            values = call(*arguments, **options)
            while True:
                try:
                    with self.running():
                        value = next(values)
                except StopIteration as end:
                    return end.value
                yield value

        return counted


@contextmanager
def kernel_clock() -> Iterator[KernelClock]:
    """Count what kernel priors do within the context, on the CPU."""
    clock = KernelClock()
    with ExitStack() as stack:
        for kind, name in _TIMED:
            stack.enter_context(patch.object(kind, name, clock.timed(getattr(kind, name))))
        settling = clock.timed_generator(DynamicKernelPrior.candidates)
        stack.enter_context(patch.object(DynamicKernelPrior, "candidates", settling))
        yield clock


# To make a prior is to look at the plane's spectrum.
_TIMED = (
    (Parts, "prior"),
    (Parts, "search_prior"),
    (DynamicKernelPrior, "gradient_misfit"),
    (DynamicKernelPrior, "learned"),
    (DynamicKernelPrior, "step"),
)
