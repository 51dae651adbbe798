"""One image to files: planes are written as they are done, and a process that dies costs one.

What restores to the disk goes this way: the command line, batches, the widget.
"""

from napari_dkp.streaming.identity import identity as identity
from napari_dkp.streaming.identity import same_but_version as same_but_version
from napari_dkp.streaming.stream import Finished as Finished
from napari_dkp.streaming.stream import Stream as Stream
