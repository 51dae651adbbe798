"""The right to write a result, which one run has at a time, in whatever process."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from napari_dkp.io.durable import explained

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_MOMENT = 0.5  # s, in which another one may just be letting go


class Claim:
    """Held from when it is made until `release`; the system releases it where a process dies.

    It is a lock on a file `.NAME.lock`, which is there as long as it is held; what a process left
    of it that died holds nobody up. File systems that know no locks are written to without.

    Parameters
    ----------
    path : the file that it is for.
    result : what to call it where another run has it; that file, if None.
    wait : seconds until another run must have released it.

    Raises
    ------
    BlockingIOError
        If another run has it.
    FileNotFoundError, PermissionError, OSError
        If the folder does not exist, or cannot be written to.
    """

    def __init__(self, path: Path, result: Path | None = None, *, wait: float = _MOMENT) -> None:
        check_folder(path.parent)
        self._file = path.with_name(f".{path.name}.lock")
        self._lock = FileLock(self._file, timeout=wait, thread_local=False, fallback_to_soft=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise BlockingIOError(
                f"output: another run is writing '{result or path}'; wait until it has ended, or "
                "choose another name or folder"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                with explained(path):
                    raise
            self._remove()

    def release(self) -> None:
        """Let others have it; a second time, nothing."""
        if not self._lock.is_locked:
            return
        if os.name != "nt":  # first, lest a file goes that another one has locked by then
            self._remove()
        self._lock.release()
        if os.name == "nt":  # where no file goes that is open
            self._remove()

    def _remove(self) -> None:
        with suppress(OSError):
            self._file.unlink()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not there, or is closed."""
    if not folder.is_dir():
        raise FileNotFoundError(f"output: the folder '{folder}' does not exist")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"output: the folder '{folder}' may not be written to")
