"""Errors that a user can mend, in one sentence."""

from napari_dkp.device import is_out_of_memory


def sentence(error: BaseException) -> str | None:
    """Return what to tell the user of an error; None if it is a fault of ours."""
    if is_out_of_memory(error):
        return (
            "the run needs more memory than the device has left; restore a smaller image, choose "
            "a lighter preset, or another --device"
        )
    if isinstance(error, ValueError | TypeError | OSError):
        return str(error)
    return None
