"""How many steps resolved settings ask for, and what is done at once."""

from dataclasses import replace

from napari_dkp.config import (
    MOTION_FAMILIES,
    OPTICS_FAMILIES,
    RKSConfig,
    SearchConfig,
    Settings,
)
from napari_dkp.gaussian_trials import most_steps
from napari_dkp.optics_trials import N_TRIALS
from napari_dkp.plan import Plan
from napari_dkp.search import SearchPlan
from napari_dkp.volume_trials import MOST_TRIALS, intervals


def search_plan(settings: Settings) -> SearchPlan | None:
    """Return the plan of the kernel search, per plane; None where image and kernel form at once.

    Richardson–Lucy soon has an image, which adds noise where it goes on: it starts anew under the
    kernel that is found. Restorers that know what images look like judge a Gaussian's width by
    that.
    """
    if not (settings.rks and settings.search and settings.iterations):
        raise ValueError("settings: expected resolved settings; got some with open fields")
    if settings.volume:
        return None
    if settings.method == "richardson-lucy":
        return _COUNTING_PLAN
    if settings.rks.sampler == "paper" or settings.kernel_family in OPTICS_FAMILIES:
        return None
    diffusion = settings.method == "diffusion"
    if settings.kernel_family not in MOTION_FAMILIES:
        return None if diffusion else _of_gaussian(settings.search, settings.iterations)
    # The steps of a diffusion model are no measure for those of the search, which fits networks.
    longest = 2 * settings.search.steps if diffusion else settings.iterations
    steps = min(settings.search.steps, longest)
    following = max(1, 2 * steps // 3)
    n_images = 1 + settings.search.rounds
    if settings.kernel_family == "line":
        return SearchPlan(steps, 1, n_images, following, following // 2)
    # The power spectrum leaves a path and the same one turned by 180 degrees; judging takes longer.
    judging = min(2 * following, longest)
    return SearchPlan(judging, 2, n_images, following, following // 2)


def _of_gaussian(search: SearchConfig, n_steps: int) -> SearchPlan:
    """Return the plan of a Gaussian's search: the power spectrum leaves it little to learn."""
    steps = max(1, 2 * search.steps // 3)
    return SearchPlan(steps, 1, min(search.rounds // 3, n_steps // (2 * steps)))


def searching_sampling(settings: Settings) -> RKSConfig:
    """Return the numbers of the population that a search moves.

    To hear the power spectrum is dear, and a Gaussian's three parameters are told by few kernels.
    """
    assert settings.rks
    rks = settings.rks
    if settings.kernel_family in MOTION_FAMILIES:
        return rks
    return replace(rks, particles=min(rks.particles, 64), moves=min(rks.moves, 1))


def kernel_every(settings: Settings) -> int:
    """Return the image steps per kernel update."""
    if settings.method == "diffusion":
        return 1
    assert settings.rks
    return settings.rks.every


def standing_after(settings: Settings) -> int | None:
    """Return the kernel updates after which it stands, None for never; without a search."""
    assert settings.rks and settings.diffusion and settings.iterations
    if settings.method != "diffusion":
        return None if settings.rks.sampler == "paper" else settings.rks.updates
    if settings.diffusion.sampler != "anneal":
        return None
    return max(1, min(settings.rks.updates, settings.iterations // 2))


def trial_steps(settings: Settings) -> int:
    """Return the image steps, at most, of the trials that settle a kernel which is sought."""
    assert settings.diffusion and settings.iterations and settings.rks
    if settings.volume:
        return MOST_TRIALS if None in intervals(settings.kernel_family, settings.rks) else 0
    diffusion = settings.diffusion
    annealed = settings.method == "diffusion" and diffusion.sampler == "anneal"
    tried = annealed and settings.kernel_family == "gaussian" and diffusion.trials > 0
    stands = settings.iterations > (standing_after(settings) or 0)
    return most_steps(diffusion) if tried and stands else 0


def optics_steps(settings: Settings) -> int:
    """Return the trials of a microscope's optics, which precede its kernel's search."""
    assert settings.rks
    sought = settings.kernel_family in OPTICS_FAMILIES and settings.rks.cutoff is None
    return N_TRIALS if sought else 0


def own_steps(settings: Settings, plan: Plan | None) -> int:
    """Return the image steps of a restoration proper, at most."""
    assert settings.iterations
    if plan is None:
        return settings.iterations
    if plan.route is not None:
        return plan.route.steps
    return plan.steps or settings.iterations


def planned_steps(settings: Settings, plan: Plan | None = None) -> int:
    """Return the image steps per plane: of search or trials, and of the restoration proper."""
    before = 0
    if plan is None:
        search = search_plan(settings)
        sought = search.n_steps if search and not search.within else 0
        before = optics_steps(settings) + sought + trial_steps(settings)
    return before + own_steps(settings, plan)


def likely_steps(settings: Settings, plan: Plan | None = None) -> int:
    """Return the image steps that a plane probably takes by a plan that is still to be found."""
    assert settings.iterations
    if settings.method == "richardson-lucy":
        return min(_USUAL_ROUTE, settings.iterations)
    if settings.method == "diffusion" and plan is None:
        return settings.iterations - (standing_after(settings) or 0) or settings.iterations
    return own_steps(settings, plan)


def planes_together(settings: Settings, channels: int) -> int:
    """Return how many planes are restored at once: as outputs of one network, for little more.

    Parameters
    ----------
    settings : resolved settings.
    channels : colours of a plane.
    """
    if settings.method != "dip" or settings.preset == "paper" or settings.volume:
        return 1
    return max(1, _OUTPUTS // channels)


# Of Richardson–Lucy, which knows no candidates: of one image that the kernel follows.
_COUNTING_PLAN = SearchPlan(20, 1, 1, following=20, settled=5)
# Images that a network makes at once.
_OUTPUTS = 12
# Steps of most routes.
_USUAL_ROUTE = 24
