"""Many files: restored one after the other, onto the disk plane by plane.

`Batch` is an iterator of small events. It can be stopped between any two of them, and whatever ends
the process, the same batch goes on where it was.
"""

from napari_dkp.batch import account as account
from napari_dkp.batch.outcome import Outcome as Outcome
from napari_dkp.batch.running import Batch as Batch
from napari_dkp.batch.running import Event as Event
