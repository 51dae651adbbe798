from collections.abc import Generator
from typing import Any, TypeVar

Value = TypeVar("Value")


def returned(steps: Generator[Any, None, Value]) -> Value:
    """Exhaust a generator; return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
