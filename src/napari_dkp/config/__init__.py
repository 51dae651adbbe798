"""Settings of a run: frozen dataclasses that check themselves.

`Settings` holds the choices a user makes; the method configs hold the numbers behind them.
A preset fills every config that the user leaves out, and `Settings.resolve` returns settings in
which it has nothing left to say, so that what is stored with a result repeats it whatever presets
become.
"""

from napari_dkp.config.methods import DiffusionConfig as DiffusionConfig
from napari_dkp.config.methods import DIPConfig as DIPConfig
from napari_dkp.config.methods import PKEConfig as PKEConfig
from napari_dkp.config.methods import RichardsonLucyConfig as RichardsonLucyConfig
from napari_dkp.config.methods import RKSConfig as RKSConfig
from napari_dkp.config.methods import SearchConfig as SearchConfig
from napari_dkp.config.microscope import LEAST_DEFOCUS as LEAST_DEFOCUS
from napari_dkp.config.microscope import MOST_DEFOCUS as MOST_DEFOCUS
from napari_dkp.config.microscope import NoiseConfig as NoiseConfig
from napari_dkp.config.microscope import OpticsConfig as OpticsConfig
from napari_dkp.config.names import BOUNDARIES as BOUNDARIES
from napari_dkp.config.names import KERNEL_FAMILIES as KERNEL_FAMILIES
from napari_dkp.config.names import LEAST_TILE as LEAST_TILE
from napari_dkp.config.names import LENS_FAMILIES as LENS_FAMILIES
from napari_dkp.config.names import MAX_SCALE as MAX_SCALE
from napari_dkp.config.names import METHODS as METHODS
from napari_dkp.config.names import MOTION_FAMILIES as MOTION_FAMILIES
from napari_dkp.config.names import NETWORKS as NETWORKS
from napari_dkp.config.names import OF_THE_MODEL as OF_THE_MODEL
from napari_dkp.config.names import OPTICS_FAMILIES as OPTICS_FAMILIES
from napari_dkp.config.names import PHASES as PHASES
from napari_dkp.config.names import PRECISIONS as PRECISIONS
from napari_dkp.config.names import PRESETS as PRESETS
from napari_dkp.config.names import PUBLISHED_FAMILIES as PUBLISHED_FAMILIES
from napari_dkp.config.names import SHIPPED_MODEL as SHIPPED_MODEL
from napari_dkp.config.names import Boundary as Boundary
from napari_dkp.config.names import Interval as Interval
from napari_dkp.config.names import KernelFamilyName as KernelFamilyName
from napari_dkp.config.names import Method as Method
from napari_dkp.config.names import Modality as Modality
from napari_dkp.config.names import Phase as Phase
from napari_dkp.config.names import Precision as Precision
from napari_dkp.config.names import PresetName as PresetName
from napari_dkp.config.names import Sampler as Sampler
from napari_dkp.config.settings import Settings as Settings
from napari_dkp.config.settings import default_kernel_size as default_kernel_size
