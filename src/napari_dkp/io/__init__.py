"""Files: pictures in, restorations out, pixel sizes kept true.

`open` and `read` take TIFF (OME, ImageJ, plain), OME-Zarr and the picture formats that Pillow
knows; `create` makes an image plane by plane, and `write` all files of a restoration. Files appear
whole or not at all, and nothing is overwritten unasked.
"""

from napari_dkp.io.creating import create as create
from napari_dkp.io.lazy import LazyArray as LazyArray
from napari_dkp.io.outputs import Outputs as Outputs
from napari_dkp.io.outputs import read_settings as read_settings
from napari_dkp.io.outputs import write as write
from napari_dkp.io.picture import Picture as Picture
from napari_dkp.io.picture import PixelSize as PixelSize
from napari_dkp.io.planes import PlaneWriter as PlaneWriter
from napari_dkp.io.reading import open as open
from napari_dkp.io.reading import read as read
from napari_dkp.io.reading import read_kernel as read_kernel
