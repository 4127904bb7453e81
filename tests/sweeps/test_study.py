"""The shipped studies: what they hold equal, their stated sizes, and their small forms."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.config.compose import Composer
from cnnbench.errors import UsageError
from cnnbench.models import MODELS
from cnnbench.sweeps.jobs import Job, expand
from cnnbench.training.data import describe_data
from cnnbench.training.network import describe_network

COMPOSER = Composer()
STUDIES = sorted(COMPOSER.groups.choices("study"))


def jobs(*settings: str, composer: Composer = COMPOSER) -> tuple[Job, ...]:
    return expand(composer, composer.parse(settings)).jobs


def composer_of(tmp_path: Path, text: str) -> Composer:
    """Return one that has a study ``two``."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "two.yaml").write_text(f"# two\n{text}\n")
    return Composer(tmp_path)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_differs_in_what_it_studies_alone(name: str) -> None:
    found = jobs(f"study={name}")
    assert len({job.overrides for job in found}) == len(found)
    # The leaderboard's batches were chosen for each network, as its rates were.
    equal = ("data.name", "data.split_seed", "data.batch_size")[: 2 if name == "leaderboard" else 3]
    for key in equal:
        group, _, field = key.partition(".")
        assert len({getattr(getattr(job.config, group), field) for job in found}) == 1
    assert (
        len({(job.config.num_epochs, job.config.seed, job.config.selection) for job in found}) == 1
    )
    # The rule behind auto goes by a network's size, and so would not hold it equal.
    precision = "bf16" if name == "leaderboard" else "fp32"
    assert {job.config.device.precision for job in found} == {precision}


@pytest.mark.parametrize("name", STUDIES)
def test_the_small_form_of_a_study_is_small_and_still_compares(name: str) -> None:
    full, small = jobs(f"study={name}"), jobs(f"study={name}", "debug=study")
    assert [job.overrides for job in small] == [job.overrides for job in full]
    assert len({repr(job.config) for job in small}) == len(full)
    for job in small:
        # Runs where nothing was downloaded, and leaves checkpoints of a few megabytes.
        assert (job.config.num_epochs, job.config.data.limit) == (1, 16)
        assert job.config.data.name == "synthetic"
        if name == "leaderboard":  # has networks without a width
            continue
        network = describe_network(job.config, describe_data(job.config))
        assert network.num_params < 3_000_000
        assert network.macs < 200_000_000


@pytest.mark.parametrize(
    "name",
    [
        "resolution",
        pytest.param("googlenet_forms", marks=pytest.mark.slow),
        pytest.param("lenet_alexnet", marks=pytest.mark.slow),
    ],
)
def test_the_small_forms_run_through_to_the_table(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"study={name}", "debug=study", f"output_root={tmp_path}"]
    assert cli(["train", "-m", *settings]) == 0
    root = capsys.readouterr().out.splitlines()[-1]
    rows = cnnbench.compare([root])["rows"]
    wanted = jobs(*settings)
    assert len(rows) == len(wanted)
    assert [row["n"] for row in rows] == [1] * len(rows)
    columns = {text.partition("=")[0] for job in wanted for text in job.overrides}
    assert columns <= rows[0].keys()
    # What differs beside what is studied would be told here.
    assert not any(row["not_comparable"] for row in rows)


# The leaderboard compares with its best row.
@pytest.mark.parametrize("name", sorted({*STUDIES} - {"leaderboard"}))
def test_a_study_says_what_its_jobs_are_compared_with(name: str) -> None:
    for more in ((), ("debug=study",), ("seed=0,1",)):
        found = [job for job in jobs(f"study={name}", *more) if job.is_baseline]
        assert len(found) == (2 if more == ("seed=0,1",) else 1)
    both = jobs(f"study={name},family")
    assert not any(job.is_baseline for job in both)


def test_the_baseline_of_a_study_is_that_of_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / "study").mkdir(parents=True)
    text = """# two
settings: [model=softmax, num_epochs=1, data.num_train=64, data.num_test=16, data=synthetic]
jobs: [[optimizer.lr=.1], [optimizer.lr=.01]]
baseline: [optimizer.lr=.01]
"""
    (tmp_path / "conf" / "study" / "two.yaml").write_text(text)
    settings = ["study=two", "seed=0,1", f"output_root={tmp_path}"]
    assert cli(["train", "-m", "--config-dir", str(tmp_path / "conf"), *settings]) == 0
    out = capsys.readouterr().out
    assert "Baseline: softmax optimizer.lr=0.01" in " ".join(out.split())
    for name in ("num_params", "macs", "epoch_seconds", "data_seconds", "compute_seconds"):
        assert name in out, name
    assert "linear_share" in out
    root = Path(out.splitlines()[-1])
    assert "Δ val/accuracy" in (root / "report.html").read_text()
    accumulator = EventAccumulator(str(root))
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    assert "val/accuracy/softmax optimizer.lr=0.01 lower" in tags


def test_the_leaderboard_has_every_network_of_images_at_one_budget() -> None:
    found = jobs("study=leaderboard")
    assert {job.config.model.name for job in found} == MODELS.keys() - {
        "linear",
        "softmax",
        "torchvision",
    }
    assert {job.config.budget.tflop for job in found} == {24.0}


def test_sizes_of_the_family() -> None:
    networks = [
        describe_network(job.config, describe_data(job.config)) for job in jobs("study=family")
    ]
    assert {network.name: network.num_params for network in networks} == {
        "alexnet": 46_764_746,
        "vgg11": 128_806_154,
        "vgg16": 134_300_362,
        "nin": 1_992_166,
        "googlenet": 5_977_530,
    }
    assert {network.image_size for network in networks} == {224}


def test_sizes_of_the_resolutions() -> None:
    pair = jobs("study=resolution")[:2]
    sizes = [describe_network(job.config, describe_data(job.config)).num_params for job in pair]
    assert sizes == [128_806_154, 44_920_074]
    assert [job.config.data.image_size for job in pair] == [224, 96]


def test_a_small_form_of_a_network_that_no_job_has(tmp_path: Path) -> None:
    text = "settings: []\njobs: [[model=mlp], [seed=1]]\ndebug: {lenett: [num_epochs=1]}"
    composer = composer_of(tmp_path, text)
    with pytest.raises(UsageError, match="debug names lenett, which no job has"):
        jobs("study=two", composer=composer)


def test_a_baseline_that_is_no_job(tmp_path: Path) -> None:
    text = "settings: []\njobs: [[model=mlp], [seed=1]]\nbaseline: [seed=2]"
    composer = composer_of(tmp_path, text)
    with pytest.raises(UsageError, match=r"baseline: \[seed=2\] is none of its jobs"):
        jobs("study=two", composer=composer)


@pytest.mark.parametrize(
    "text",
    [
        "settings: []\njobs: [[model=mlp], [model=lenet, 'seed=range(0,3)']]",
        "settings: ['seed=0,1']\njobs: [[model=mlp]]",
        "settings: []\njobs: [[model=mlp]]\ndebug: {settings: ['seed=choice(0,1)']}",
    ],
)
def test_a_job_of_several_values_is_refused(text: str, tmp_path: Path) -> None:
    composer = composer_of(tmp_path, text)
    with pytest.raises(UsageError, match=r"two\.yaml: seed has several values"):
        jobs("study=two", composer=composer)


def test_a_job_is_named_by_what_it_trains(tmp_path: Path) -> None:
    text = "settings: []\njobs: [[model=mlp, seed=1], [model=lenet, seed=2]]"
    composer = composer_of(tmp_path, text)
    found = jobs("study=two", "model=softmax", composer=composer)
    assert [job.overrides for job in found] == [
        ("model=softmax", "seed=1"),
        ("model=softmax", "seed=2"),
    ]
    assert {job.config.model.name for job in found} == {"softmax"}


def test_what_a_job_says_stands_in_its_small_form(tmp_path: Path) -> None:
    text = """
settings: [num_epochs=9, model=mlp]
jobs: [[seed=1], [seed=2, num_epochs=4], [model=lenet]]
debug: {settings: [num_epochs=1], lenet: [num_epochs=2]}"""
    composer = composer_of(tmp_path, text)
    full, small = (
        [job.config.num_epochs for job in jobs("study=two", *more, composer=composer)]
        for more in ((), ("debug=study",))
    )
    assert (full, small) == ([9, 4, 9], [1, 4, 2])


@pytest.mark.parametrize(
    "text",
    [
        "jobs: [",
        "jobs: [[seed=1]]",
        "settings: []\njobs: []",
        "settings: []\njobs: [seed=1]",
        "settings: seed=1\njobs: [[seed=1]]",
        "settings: []\njobs: [[1]]",
        "settings: []\njobs: [[seed=1]]\ndebug: [seed=1]",
        "settings: []\njobs: [[seed=1]]\ndebug: {lenet: seed=1}",
        "settings: []\njobs: [[seed=1]]\nmore: 1",
        "settings: []\njobs: [[seed=1]]\nbaseline: seed=1",
        "- 1",
    ],
)
def test_a_file_that_is_no_study_is_refused_plainly(text: str, tmp_path: Path) -> None:
    composer = composer_of(tmp_path, text)
    with pytest.raises(UsageError, match=r"two\.yaml: (expected the keys|not readable)"):
        jobs("study=two", composer=composer)
