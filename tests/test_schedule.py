"""How many steps a search takes, as settings say."""

import pytest
from tiny import settings

from napari_dkp.config import (
    KernelFamilyName,
    RKSConfig,
    SearchConfig,
    Settings,
)
from napari_dkp.schedule import planned_steps, search_plan
from napari_dkp.search import SearchPlan


@pytest.mark.parametrize(("preset", "later"), [("fast", 1), ("balanced", 3), ("best", 6)])
def test_motion_is_searched_on_images_of_their_own(preset, later):
    def plan(family: KernelFamilyName) -> SearchPlan | None:
        return search_plan(Settings(preset=preset, kernel_family=family).resolve())

    # No image of the search takes more steps than the one that is handed out.
    forming, judging, following = (136, 136, 90) if preset == "fast" else (150, 200, 100)
    assert plan("line") == SearchPlan(forming, 1, 1 + later, following, following // 2)
    assert plan("trajectory") == SearchPlan(judging, 2, 1 + later, following, following // 2)


@pytest.mark.parametrize("family", ["auto", "gaussian"])
@pytest.mark.parametrize(
    ("changes", "learnt"),
    [
        ({"preset": "fast"}, 0),
        ({}, 1),
        ({"preset": "best"}, 2),
        # At most half of the steps.
        ({"iterations": 199}, 0),
        ({"iterations": 200}, 1),
        ({"preset": "best", "iterations": 399}, 1),
        ({"search": SearchConfig(rounds=2)}, 0),
    ],
)
def test_a_gaussian_is_learnt_from_few_images_within_the_steps(family, changes, learnt):
    resolved = Settings(kernel_family=family, **changes).resolve()
    plan = search_plan(resolved)
    assert plan == SearchPlan(100, 1, learnt)
    assert plan.within
    assert planned_steps(resolved) == resolved.iterations


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "diffusion", "kernel_family": "gaussian"},
        {"method": "dip", "kernel_family": "airy"},
        {"rks": RKSConfig(sampler="paper")},
    ],
)
def test_others_than_networks_of_photographs_have_no_search_for_a_gaussian(changes):
    assert search_plan(Settings(**changes).resolve()) is None


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
