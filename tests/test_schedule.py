"""How many steps a search takes, as settings say."""

import pytest
from tiny import settings

from napari_dkp.config import (
    KernelFamilyName,
    SearchConfig,
    Settings,
)
from napari_dkp.schedule import search_plan
from napari_dkp.search import SearchPlan


@pytest.mark.parametrize(("preset", "later"), [("fast", 1), ("balanced", 3), ("best", 6)])
def test_motion_is_searched_on_images_of_their_own(preset, later):
    def plan(family: KernelFamilyName) -> SearchPlan | None:
        return search_plan(Settings(preset=preset, kernel_family=family).resolve())

    # No image of the search takes more steps than the one that is handed out.
    forming, judging, following = (136, 136, 90) if preset == "fast" else (150, 200, 100)
    assert plan("line") == SearchPlan(forming, 1, 1 + later, following, following // 2)
    assert plan("trajectory") == SearchPlan(judging, 2, 1 + later, following, following // 2)
    assert plan("auto") is plan("gaussian") is None


@pytest.mark.parametrize("family", ["line", "trajectory", "gaussian"])
def test_what_is_published_has_no_search(family):
    assert search_plan(Settings(preset="paper", kernel_family=family).resolve()) is None


def test_the_steps_of_a_diffusion_model_are_no_measure_for_a_search():
    search = SearchConfig(steps=90)
    plans = [
        search_plan(
            Settings(
                method=method,
                iterations=400 if method == "dip" else 20,
                search=search,
                kernel_family="trajectory",
            ).resolve()
        )
        for method in ("dip", "diffusion")
    ]
    assert plans[0] == plans[1] == SearchPlan(120, 2, 4, 60, 30)


@pytest.mark.parametrize(("iterations", "steps"), [(400, 90), (90, 90), (40, 40), (1, 1)])
def test_no_image_of_a_search_takes_more_steps_than_the_run_s(iterations, steps):
    search = SearchConfig(steps=90)
    resolved = settings(search=search, iterations=iterations, kernel_family="line").resolve()
    planned = search_plan(resolved)
    assert planned.steps == steps
    assert 0 <= planned.settled < planned.following <= steps
