"""Files: pictures in, restorations out, pixel sizes kept true.

`open` and `read` take TIFF (OME, ImageJ, plain), OME-Zarr and the picture formats that Pillow
knows; `create` makes an image plane by plane, and `write` all files of a restoration. Files appear
whole or not at all, and nothing is overwritten unasked.
"""

from napari_dkp.io.claim import Claim as Claim
from napari_dkp.io.creating import begun as begun
from napari_dkp.io.creating import create as create
from napari_dkp.io.durable import remove_parts as remove_parts
from napari_dkp.io.durable import write_text as write_text
from napari_dkp.io.lazy import LazyArray as LazyArray
from napari_dkp.io.lines import Lines as Lines
from napari_dkp.io.names import image_in as image_in
from napari_dkp.io.names import is_whole as is_whole
from napari_dkp.io.names import partial_of as partial_of
from napari_dkp.io.outputs import Outputs as Outputs
from napari_dkp.io.outputs import write as write
from napari_dkp.io.outputs import write_kernel as write_kernel
from napari_dkp.io.picture import Picture as Picture
from napari_dkp.io.picture import PixelSize as PixelSize
from napari_dkp.io.planes import PlaneWriter as PlaneWriter
from napari_dkp.io.reading import is_image as is_image
from napari_dkp.io.reading import open as open
from napari_dkp.io.reading import read as read
from napari_dkp.io.reading import read_kernel as read_kernel
from napari_dkp.io.reading import stem as stem
from napari_dkp.io.record import Record as Record
from napari_dkp.io.record import read_record as read_record
from napari_dkp.io.record import read_settings as read_settings
