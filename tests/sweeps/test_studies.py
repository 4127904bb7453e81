"""The shipped studies: what they hold equal, their stated sizes, and their small forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnnbench.compose import Composer
from cnnbench.errors import UsageError
from cnnbench.networks import describe_network
from cnnbench.sweeps.expand import Job, expand

COMPOSER = Composer()
STUDIES = sorted(COMPOSER.choices("study"))


def jobs(*settings: str, composer: Composer = COMPOSER) -> tuple[Job, ...]:
    return expand(composer, composer.parse(settings)).jobs


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_differs_in_what_it_studies_alone(name: str) -> None:
    found = jobs(f"study={name}")
    assert len({job.overrides for job in found}) == len(found)
    for key in ("data.name", "data.split_seed", "data.batch_size"):
        group, _, field = key.partition(".")
        assert len({getattr(getattr(job.config, group), field) for job in found}) == 1
    assert (
        len({(job.config.num_epochs, job.config.seed, job.config.selection) for job in found}) == 1
    )


@pytest.mark.parametrize("name", STUDIES)
def test_the_small_form_of_a_study_is_small_and_still_compares(name: str) -> None:
    full, small = jobs(f"study={name}"), jobs(f"study={name}", "debug=study")
    assert len({job.overrides for job in small}) == len(full)
    for job in small:
        assert (job.config.num_epochs, job.config.data.limit) == (1, 32)
        # Checkpoints of a few megabytes, steps of a fraction of a second.
        network = describe_network(job.config)
        assert network.num_params < 3_000_000
        assert network.macs < 200_000_000


def test_sizes_of_the_family() -> None:
    came = {job.config.model.name: describe_network(job.config) for job in jobs("study=family")}
    assert {name: network.num_params for name, network in came.items()} == {
        "alexnet": 46_764_746,
        "vgg11": 128_806_154,
        "vgg16": 134_300_362,
        "nin": 1_992_166,
        "googlenet": 5_977_530,
    }
    assert {network.image_size for network in came.values()} == {224}


def test_sizes_of_the_resolutions() -> None:
    pair = jobs("study=resolution")[:2]
    assert [describe_network(job.config).num_params for job in pair] == [128_806_154, 44_920_074]
    assert [job.config.data.image_size for job in pair] == [224, 96]


def test_a_study_whose_small_form_has_other_jobs(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    text = "# two\nsettings: []\njobs: [[seed=0], [seed=1]]\ndebug: [[num_epochs=1]]\n"
    (tmp_path / "study" / "two.yaml").write_text(text)
    with pytest.raises(UsageError, match="debug has 1 entries, jobs 2"):
        jobs("study=two", composer=Composer(tmp_path))
