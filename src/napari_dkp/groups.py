"""Planes that have something in common, and planes that are restored together."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

from napari_dkp.config import Settings
from napari_dkp.layout import Index, Layout
from napari_dkp.schedule import planes_together


@dataclass(frozen=True)
class Group:
    """Planes that have a kernel in common, or one plane.

    Attributes
    ----------
    channel : that they belong to.
    blocks : planes that are restored together.
    piloted : whether what they have in common is found first.
    planes : all of them.
    """

    channel: int
    blocks: list[list[Index]]
    piloted: bool
    planes: list[Index]

    def without(self, done: Iterable[Index]) -> "Group":
        """Return the group less the blocks all of whose planes are done."""
        left = [block for block in self.blocks if not frozenset(done).issuperset(block)]
        return replace(self, blocks=left)


def groups(layout: Layout, settings: Settings, *, known_kernel: bool) -> list[Group]:
    """Return the groups of an image's planes, channel after channel.

    Parameters
    ----------
    layout : of the image.
    settings : resolved settings.
    known_kernel : the run is given a PSF.
    """
    # Of a known kernel only a route is left to be found.
    seeks = settings.method == "richardson-lucy" or not known_kernel
    found = []
    for channel, members in groupby(sorted(layout.planes, key=layout.channel), layout.channel):
        planes = list(members)
        shared = settings.share_kernel and len(planes) > 1
        size = planes_together(settings, layout.colours) if shared else 1
        blocks = [planes[i : i + size] for i in range(0, len(planes), size)]
        found.append(Group(channel, blocks, shared and seeks and len(blocks) > 1, planes))
    return found
