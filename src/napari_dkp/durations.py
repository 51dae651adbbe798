"""Durations in words."""


def duration(seconds: float) -> str:
    """Return a duration as people say it, in its largest unit of which there are enough."""
    for length, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.2g} s"
