"""The public functions: what the verbs do, for Python.

Each is written here once, and the verb of the same name calls it; ``cnnbench.NAME`` is the same
function. Everything they need is imported when they are called, so that ``import cnnbench`` loads
no torch. They raise `CnnbenchError`, whose ``exit_code`` is what the command would end with.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cnnbench.errors import UsageError, expected_names, whole_argument

if TYPE_CHECKING:
    from torch import nn

    from cnnbench.analysis.compare.tables import Comparison
    from cnnbench.analysis.results import Result, Rows, Run, Sweep
    from cnnbench.config.compose import Composer
    from cnnbench.config.settings import Setting
    from cnnbench.training.loaded import LoadedData

__all__ = [
    "train",
    "train_sweep",
    "dry_run",
    "load",
    "evaluate",
    "predict",
    "summary",
    "tensors",
    "bench",
    "bench_sweep",
    "find_lr",
    "compare",
    "compare_errors",
    "pack",
    "verify",
    "reproduce",
    "features",
    "export",
    "create_model",
    "list_models",
    "load_data",
]
SPLITS = ("test", "val", "train")
EXPORT_TARGETS = ("onnx", "torch")
BENCH_SECONDS = 2.0
# Of find_lr: the first and the last rate, and how many steps.
LR_RANGE = (1e-6, 10.0, 200)


def train(
    settings: str | Sequence[str] = (),
    *,
    config: str | Path | None = None,
    config_dir: str | Path | None = None,
    **keys: Any,
) -> Run | Sweep:
    """Train one network, resume a run, or train every job of a sweep that is not done yet.

    Of several threads, one trains and the others wait. The jobs of a sweep train in processes of
    their own, whose failures are said and counted.

    Args:
        settings: as on the command line, each ``key=value``, or one text of them. ``resume=RUN``
            resumes a run; one that is finished is left as it is.
        config: a saved ``config.yaml`` to start from; the settings go over it.
        config_dir: a directory with groups of your own.
        keys: further settings, two underscores for a dot: ``optimizer__lr=.01``. A list sweeps
            over its values, as ``a,b`` does in a text; a tuple is one value, a list's.

    Returns:
        The run directory, a `Path` that also has ``test_accuracy``, ``results`` and ``metrics``;
        of a sweep its directory, a `Path` with ``runs``, ``results`` and ``num_failed``.

    Raises:
        UsageError: a setting is wrong, or the config does not fit this machine.
        DataError: the data is missing or damaged.
        CheckpointError: the run to resume is damaged or foreign.
        DiskError: a file cannot be written; the checkpoint before stands.
        ResourceError: memory ran out, or a loader worker died.
        NonFiniteError: the loss or a gradient is not finite; the checkpoint before stands.
        Interrupted: a signal came, or ``max_seconds`` are over; the state is saved.

    Example:
        >>> run = cnnbench.train(["model=lenet", "data=digits", "debug=smoke"])
        lenet on digits: 1 x 28 x 28, 61,706 parameters, 416,520 MACs
        ...
        test accuracy ...
        >>> (run / "run.json").exists(), run.test_accuracy == run.results["test/accuracy"]
        (True, True)
    """
    import time

    since = time.monotonic()  # max_seconds counts what follows
    from cnnbench.config.command import is_sweep, read_settings
    from cnnbench.config.compose import Composer

    composer = Composer(config_dir)
    read = read_settings(composer, settings, config, keys=keys)
    if is_sweep(read):
        return _train_jobs(composer, read)[0]
    return train_run(composer, read, since)


def train_run(composer: Composer, read: Sequence[Setting], since: float) -> Run:
    """Do what `train` does, of one run alone.

    Args:
        composer: knows the groups.
        read: settings; a list of choices is a mistake here.
        since: when what ``max_seconds`` counts began, by ``time.monotonic``.
    """
    from cnnbench.analysis.results import Run
    from cnnbench.config.early import check_early
    from cnnbench.notices import notice, torch_loading
    from cnnbench.runs.resume import how_to_train_longer, run_and_config

    run, composed = run_and_config(composer, read)
    if run is not None and run.record.status == "done" and composed.extend_epochs is None:
        notice(f"this run is finished: {run.path}; {how_to_train_longer(run)}")
        return Run(run.path)
    check_early(composed)
    with torch_loading(f"{composed.model.name} on {composed.data.name}, seed {composed.seed}"):
        from cnnbench.training import launch
    if run is None:
        return Run(launch.start(composed, sys.argv, since).path)
    launch.resume(composed, run, sys.argv, since)
    return Run(run.path)


def train_sweep(
    settings: str | Sequence[str] = (),
    *,
    config: str | Path | None = None,
    config_dir: str | Path | None = None,
    **keys: Any,
) -> tuple[Sweep, int]:
    """Train every job of a sweep that is not done yet, each in a process of its own.

    Args:
        settings: as on the command line after ``-m``, such as ``["seed=range(0,3)"]``;
            ``hydra.launcher.slots`` says how many run at once. With ``hydra/sweeper=optuna`` the
            jobs are trials of a search, which are drawn as it goes on.
        config: a saved ``config.yaml`` to start from; the settings go over it.
        config_dir: a directory with groups of your own.
        keys: further settings, as `train` takes them.

    Returns:
        The sweep's directory, and how many of its jobs failed.

    Raises:
        UsageError: a job's settings are wrong, or do not fit this machine.
        Interrupted: a signal came; the running jobs have saved their state.

    Example:
        >>> root, num_failed = cnnbench.train_sweep(
        ...     ["model=softmax", "seed=0,1", "data=digits", "debug=smoke"]
        ... )
        [1/2] seed=0...
        >>> num_failed
        0
        >>> rows = cnnbench.compare(root)["rows"]
        >>> [row["n"] for row in rows]
        [2]
    """
    from cnnbench.config.command import read_settings
    from cnnbench.config.compose import Composer

    composer = Composer(config_dir)
    read = read_settings(composer, settings, config, sweeps=True, keys=keys)
    return _train_jobs(composer, read)


def _train_jobs(composer: Composer, read: Sequence[Setting]) -> tuple[Sweep, int]:
    from cnnbench.analysis.results import Sweep
    from cnnbench.sweeps.launch import launch

    root, num_failed = launch(composer, read, sys.argv)
    return Sweep.ended(root), num_failed


def dry_run(
    settings: str | Sequence[str] = (),
    *,
    config: str | Path | None = None,
    config_dir: str | Path | None = None,
    sweeps: bool = False,
    **keys: Any,
) -> Result | Rows:
    """Train one batch of what `train` would train, and estimate the rest; no run is written.

    Args:
        settings: as `train` takes them.
        config: a saved ``config.yaml`` to start from; the settings go over it.
        config_dir: a directory with groups of your own.
        sweeps: whether commas in a path separate several, as after ``-m``.
        keys: further settings, as `train` takes them.

    Returns:
        ``model``, ``data``, ``image_size``, ``batch_size``, ``device``, ``precision``,
        ``num_threads``, ``num_params``, ``macs`` of one image, ``num_train``, ``num_epochs``,
        ``loss`` of the first batch, and what is expected: ``epoch_seconds`` and ``total_seconds``
        of training, ``memory_bytes`` and ``disk_bytes``. Of a sweep a list of these, each with
        ``job``.

    Raises:
        CnnbenchError: as `train`, of whatever one batch shows.

    Example:
        >>> cnnbench.dry_run("model=lenet data=digits")["num_params"]
        61706
    """
    from cnnbench.config.command import is_sweep, read_settings, single_config
    from cnnbench.config.compose import Composer

    composer = Composer(config_dir)
    read = read_settings(composer, settings, config, sweeps=sweeps, keys=keys)
    if not (sweeps or is_sweep(read)):
        composed = single_config(composer, read)
        from cnnbench.analysis.dry_run import dry_run

        return dry_run(composed)
    from cnnbench.config.launcher import split_launcher
    from cnnbench.sweeps.jobs import expand

    jobs = expand(composer, split_launcher(read)[2]).jobs
    from cnnbench.analysis.dry_run import dry_sweep

    return dry_sweep(
        [(" ".join(job.overrides) or job.config.model.name, job.config) for job in jobs]
    )


def load(run: str | Path, *, model_path: str | None = None) -> nn.Module:
    """Return a run's network with the selected epoch's weights, in evaluation mode on the CPU.

    Args:
        run: a run directory; its data set is not needed.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.

    Returns:
        A module that maps normalised images (N, C, H, W) to logits (N, num_classes).

    Raises:
        UsageError: it is no run, or ``model_path`` is missing or cannot be used.
        CheckpointError: the run is damaged or foreign.

    Example:
        >>> cnnbench.load(run)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    from cnnbench.runs.directory import open_run

    directory = open_run(run)
    from cnnbench.runs.network import load_run

    return load_run(directory, model_path).module


def evaluate(
    run: str | Path,
    *,
    split: str = "test",
    robustness: bool = False,
    plots: bool = False,
    tta: bool = False,
    without_duplicates: bool = False,
    model_path: str | None = None,
    data_root: str | Path | None = None,
    data_path: str | None = None,
) -> Result:
    """Return exact metrics of a run's selected weights on one split of its data.

    Args:
        run: a run directory.
        split: test, val or train. Reading the test split adds one to the run's ``test_reads``.
        robustness: also measure on corrupted images; about 25 times the work.
        plots: also write figures into the run's ``plots`` directory.
        tta: also measure the average over 5 views of each image, or 10 where training had flips
            (test-time augmentation): ``tta`` in the result, never in ``accuracy``.
        without_duplicates: leave out images that training or choosing has seen, equal or nearly;
            ``num_duplicates`` in the result says how many.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.
        data_root: where the data was moved to; its content has to be what was recorded.
        data_path: ``FILE:NAME`` of data of your own, which no run may name itself.

    Returns:
        ``run``, ``model``, ``split``, ``accuracy`` (a fraction in [0, 1]), ``loss``,
        ``top5_accuracy`` (of more than five classes), ``ece`` (expected calibration error, a
        fraction, over 15 bins), ``num_images``, ``num_correct``, ``per_class`` (``class``,
        ``precision``, ``recall``, ``f1``, ``support``) and ``confusion_matrix``
        ([target][prediction]); with ``tta`` its ``num_views``, ``accuracy``, ``num_correct`` and
        ``loss``; with ``robustness`` a list of ``corruption``, ``severity`` and
        ``accuracy``, where severity 0 is the plain one.
        Of a run that predicts a number ``run``, ``model``, ``split``, ``loss``, ``r2``, ``mae`` (in
        the target's unit) and ``num_images``.

    Raises:
        UsageError: it is no run, the split is empty or unknown, or what is asked needs images.
        CheckpointError: the run is damaged or foreign.
        DataError: its data is missing, damaged, or not what it was trained on.
        DiskError: a figure cannot be written.

    Example:
        >>> result = cnnbench.evaluate(run, split="val")
        >>> result["accuracy"] == result["num_correct"] / result["num_images"]
        True
    """
    if split not in SPLITS:
        raise UsageError(f"split '{split}': unknown{expected_names(split, SPLITS)}")
    from cnnbench.runs.directory import open_run

    directory = open_run(run)
    from cnnbench.analysis.evaluate.measure import measure, measure_numbers, open_split
    from cnnbench.analysis.results import Result
    from cnnbench.notices import notice

    more: Any = {"without_duplicates": without_duplicates, "data_root": data_root}
    more["data_path"] = data_path
    opened = open_split(directory, split, model_path=model_path, **more)
    if robustness or without_duplicates:
        opened.network.check_images()
    if opened.network.loss.is_number:
        if plots:
            raise UsageError("--plots: draws classes, and this run predicts a number")
        if tta:
            raise UsageError("--tta: averages probabilities, and this run predicts a number")
        return Result(measure_numbers(opened))
    if tta:
        opened.network.check_images()
    measured = measure(opened)
    if tta:
        from cnnbench.analysis.evaluate.views import measure_views

        measured.result["tta"] = measure_views(opened)
    if plots:
        from cnnbench.analysis.evaluate.plots import plot_evaluation

        for file in plot_evaluation(measured, opened.images, directory.path / "plots"):
            notice(str(file))
    if not robustness:
        return Result(measured.result)
    from cnnbench.analysis.evaluate.robustness import measure_robustness

    rows = measure_robustness(opened, measured.result["accuracy"])
    result = Result({**measured.result, "robustness": rows})
    if plots:
        from cnnbench.analysis.evaluate.plots import plot_robustness_of

        for file in plot_robustness_of([result]):
            notice(str(file))
    return result


def predict(
    run: str | Path,
    images: Any,
    *,
    top: int = 3,
    invert: bool | str = False,
    model_path: str | None = None,
) -> Rows:
    """Return the classes that a run sees in images.

    Every image is cropped to its largest centred square and resized to what the network takes. A
    file that cannot be read is named on standard error, and is in no row.

    Args:
        run: a run directory; its data set is not needed.
        images: image files of any size, folders of them, or a list of these; Pillow images, or
            arrays and tensors (H, W), (H, W, C), (C, H, W), (N, H, W), (N, C, H, W) or
            (N, H, W, C), or a list of these, whose values are whole numbers from 0 to 255, or
            fractions from 0 to 1. For rows of numbers CSV files, an array (N, columns) or a frame.
        top: how many of the likeliest classes to list, at least 1.
        invert: True for images whose dark and light are the other way round than in training,
            such as ink on paper for a network of white digits; ``"auto"`` inverts only images
            whose border says so.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.

    Returns:
        For each image ``class``, ``probability`` in [0, 1], ``top`` (such pairs, likeliest
        first), and ``file`` where it came from one; for a row of a CSV file also ``line``, and
        where a number is predicted it alone, under the target's name.

    Raises:
        UsageError: it is no run, ``top`` is below 1, or the images are of another type or shape.
        CheckpointError: the run is damaged or foreign.
        DataError: a path does not exist, or none of the files is an image.

    Example:
        >>> [row] = cnnbench.predict(run, "digit.png", top=2)
        >>> len(row["top"]), row["top"][0]["class"] == row["class"]
        (2, True)
        >>> len(cnnbench.predict(run, torch.zeros(5, 8, 8)))
        5
    """
    top = whole_argument("--top ", top)
    from cnnbench.runs.directory import open_run

    directory = open_run(run)
    from cnnbench.analysis.predict import INVERT, predict_files, predict_objects
    from cnnbench.analysis.results import Rows

    how: Any = {False: "never", True: "always"}[invert] if isinstance(invert, bool) else invert
    if how not in INVERT:
        raise UsageError(f"invert={invert!r}: expected False, True or 'auto'")

    paths = [images] if isinstance(images, (str, Path)) else images
    is_files = isinstance(paths, Sequence) and all(isinstance(p, (str, Path)) for p in paths)
    given = predict_files if is_files else predict_objects
    return Rows(given(directory, paths, top, model_path, how))


def summary(
    network: nn.Module | str | Path | Sequence[str] = (),
    input_shape: Sequence[int] | None = None,
    *,
    depth: int | None = None,
    against: str | None = None,
    blocks: str | Sequence[str] = (),
    model_path: str | None = None,
    config_dir: str | Path | None = None,
) -> Result:
    """Return layers, totals and warnings of a network for one image; nothing runs.

    Args:
        network: any module, which is left exactly as it was; a run directory; or settings, also
            as one text.
        input_shape: (C, H, W) without the batch dimension, for a module and only for one.
        depth: fold layers into the modules that many levels down, at least 1.
        against: a second network beside it: a network's name, a run, or settings in one text.
        blocks: in place of a network, one or more blocks, such as ``bottleneck 256 32``.
        model_path: ``FILE:CLASS`` of a network of your own, for its run.
        config_dir: a directory with groups of your own.

    Returns:
        ``input_shape``, ``num_params``, ``num_trainable``, ``num_frozen``, ``macs``,
        ``receptive_field`` (pixels, the largest; None where none is known), ``input_bytes``,
        ``activation_bytes`` (what training keeps for the backward pass), ``param_bytes``,
        ``linear_share`` (of the parameters), ``layers`` (``name``, ``kind``, ``output_shape``,
        ``num_params``, ``macs``, ``receptive_field``, ``stride``, ``macs_share``, ``params_share``)
        and ``warnings``, sentences. With ``against`` ``networks`` (two labels), ``totals``
        (``total``, ``first``, ``second``, ``difference``, ``ratio``) and ``summaries``. With
        ``blocks`` only ``blocks``: of each the costs, and their ratios to the first one's. It is
        printed, and shown in a notebook, as a table.

    Raises:
        UsageError: ``depth`` is below 1, the network does not take such an image, a setting is
            wrong, or it is no run.
        CheckpointError: the run is damaged or foreign.

    Example:
        >>> network = cnnbench.create_model("lenet")
        >>> cnnbench.summary(network, (1, 28, 28))["num_params"]
        61706
        >>> cnnbench.summary(["model=lenet", "data=mnist"], against="mlp")["networks"]
        ['lenet on mnist', 'mlp on mnist']
    """
    from cnnbench.analysis import summary as subjects
    from cnnbench.analysis.summary_text import blocks_result, networks_result, summary_result
    from cnnbench.config.compose import Composer
    from cnnbench.config.settings import words
    from cnnbench.geometry.summary import summarize

    if blocks:
        return blocks_result(subjects.side_by_side_blocks(blocks))
    composer = Composer(config_dir)
    if isinstance(network, (str, Path, Sequence)):
        if input_shape is not None:
            raise UsageError("input_shape: a run or a config has its own")
        is_run = isinstance(network, Path) or (
            isinstance(network, str) and ("=" not in network or Path(network).is_dir())
        )
        names = [str(network)] if is_run else words(cast(Sequence[str], network))
        first, settings = subjects.subject_of(composer, names, model_path)
    else:
        if input_shape is None:
            raise UsageError("input_shape: (C, H, W) of the images that the module takes")
        first, settings = subjects.subject_of_module(network, input_shape), []
    if against is None:
        return summary_result(first.label, summarize(first.module, first.input_shape, depth=depth))
    other = subjects.other_subject(composer, against, settings, model_path)
    return networks_result(subjects.side_by_side(first, other, depth))


def tensors(run: str | Path, pattern: str = "*", *, model_path: str | None = None) -> Rows:
    """Return what the tensors of a run's selected weights hold.

    Args:
        run: a run directory.
        pattern: of the tensors' names, such as ``*.weight``.
        model_path: ``FILE:CLASS`` of a network of your own, only needed for ``trainable``.

    Returns:
        For each tensor ``name``, ``shape``, ``count``, ``trainable`` (None where that cannot be
        known), ``mean``, ``std``, ``min`` and ``max``.

    Raises:
        UsageError: it is no run, or no tensor has such a name.
        CheckpointError: the run is damaged or foreign.

    Example:
        >>> [row["shape"] for row in cnnbench.tensors(run, "head.4.bias")]
        [[10]]
    """
    from cnnbench.runs.directory import open_run

    directory = open_run(run)
    from cnnbench.analysis.results import Rows
    from cnnbench.analysis.summary import run_tensors

    return Rows(run_tensors(directory, pattern, model_path))


def bench(
    settings: str | Sequence[str] = (),
    *,
    seconds: float = BENCH_SECONDS,
    config_dir: str | Path | None = None,
) -> Result:
    """Measure how fast a config runs on this machine; nothing is written that stays.

    Args:
        settings: as ``cnnbench.train`` takes them.
        seconds: for each of the five measurements; > 0.
        config_dir: a directory with groups of your own.

    Returns:
        ``train_images_per_second``, ``eval_images_per_second`` and ``data_images_per_second``, each
        the median of five windows with ``_min`` and ``_max`` beside it; ``step_seconds`` and its
        parts ``data_seconds``, ``forward_seconds``, ``backward_seconds``, ``optimizer_seconds`` and
        ``logging_seconds``; what an epoch's steps take of them, ``epoch_data_seconds`` and
        ``epoch_compute_seconds``, all but the data; ``peak_memory_bytes``; ``flops_per_image`` of
        forward and backward pass, ``flops_per_second`` of training, ``peak_flops_per_second`` of
        matrix products, and ``peak_fraction``, one by the other; and what was measured.

    Raises:
        UsageError: a setting is wrong, the config does not fit this machine, or seconds are not
            above 0.
        DataError: the data is missing or damaged.
        ResourceError: memory ran out.

    Example:
        >>> measured = cnnbench.bench(["model=softmax", "data=digits"], seconds=0.05)
        >>> measured["train_images_per_second"] > 0
        True
    """
    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer

    composer = Composer(config_dir)
    config = single_config(composer, composer.parse(settings))
    from cnnbench.analysis.bench_jobs import measure_one
    from cnnbench.analysis.results import Result

    return Result(measure_one(config, seconds))


def bench_sweep(
    settings: str | Sequence[str],
    *,
    seconds: float = BENCH_SECONDS,
    config_dir: str | Path | None = None,
) -> Rows:
    """Measure every job of a sweep, each in a process of its own.

    Args:
        settings: as on the command line after ``-m``.
        seconds: for each of the five measurements of a job; > 0.
        config_dir: a directory with groups of your own.

    Returns:
        For each job ``job``, the settings in which it differs, and what ``cnnbench.bench``
        returns, or ``error``, a sentence, where the job failed or this machine lacks its device.

    Raises:
        UsageError: a job's settings are wrong or do not fit this machine.

    Example:
        >>> rows = cnnbench.bench_sweep(["data.batch_size=32,64", "data=digits"], seconds=0.05)
        >>> [row["job"] for row in rows]
        ['data.batch_size=32', 'data.batch_size=64']
    """
    from cnnbench.config.compose import Composer
    from cnnbench.sweeps.jobs import expand

    composer = Composer(config_dir)
    jobs = expand(composer, composer.parse(settings, sweeps=True)).jobs
    from cnnbench.analysis.bench_jobs import measure_jobs
    from cnnbench.analysis.results import Rows

    named = [(" ".join(job.overrides) or job.config.model.name, job.config) for job in jobs]
    return Rows(measure_jobs(named, seconds))


def find_lr(
    settings: str | Sequence[str] = (),
    *,
    low: float = LR_RANGE[0],
    high: float = LR_RANGE[1],
    num_steps: int = LR_RANGE[2],
    output: str | Path | None = None,
    config_dir: str | Path | None = None,
) -> Result:
    """Find a learning rate by a range test (Smith, 2017): the loss while the rate rises.

    What is trained is thrown away, and no image of the test or validation part is looked at.

    Args:
        settings: as ``cnnbench.train`` takes them.
        low: first rate, > 0.
        high: last rate, above ``low``.
        num_steps: at least 20.
        output: a directory for a table and a figure; None for none.
        config_dir: a directory with groups of your own.

    Returns:
        ``lr``, the rate to copy: a tenth of ``least_loss_lr``, at which the smoothed training loss
        is least; ``diverged_lr``, None where the loss never rose to four times its least; and
        ``points`` with ``lr``, ``loss`` and ``smoothed`` of each step.

    Raises:
        UsageError: a setting or the range is wrong, or the loss never fell.
        DataError: the data is missing or damaged.
        DiskError: a file cannot be written.

    Example:
        >>> found = cnnbench.find_lr(["model=softmax", "data=digits"], num_steps=50)
        >>> found["lr"] < found["least_loss_lr"]
        True
    """
    from cnnbench.config.command import single_config
    from cnnbench.config.compose import Composer

    composer = Composer(config_dir)
    config = single_config(composer, composer.parse(settings))
    from cnnbench.analysis.lr_range import find_rate, write_range
    from cnnbench.analysis.results import Result
    from cnnbench.files import expand_path

    found = find_rate(config, low=low, high=high, num_steps=num_steps)
    if output is not None:
        write_range(found, expand_path(output))
    return Result(found)


def compare(
    paths: str | Path | Sequence[str | Path],
    *,
    where: str | None = None,
    sort: str | None = None,
    descending: bool = False,
    group: str | None = None,
    baseline: str | int | Path | None = None,
    margin: float | None = None,
    calibration: bool = False,
    without_duplicates: str | Path | Sequence[str | Path] = (),
    pruned: bool = False,
    plots: str | Path | None = None,
    html: str | Path | None = None,
) -> Result:
    """Compare trained runs; those that differ in their seed or fold alone are one row.

    Args:
        paths: runs, or directories with runs below; of what `train` returned, its own runs.
        where: a condition on the rows, such as ``"data=fashion_mnist and num_params<1e6"``.
        sort: a column; else by test accuracy, the largest first.
        descending: the largest first.
        group: a column; each of its values gets a table. Else several data sets get one each.
        baseline: the number of a row, a run in it, or a model that only one row has.
        margin: differences of test accuracy below it do not matter.
        calibration: add ``test/ece``, ``test/brier`` and ``test/nll`` with 95 % intervals, over
            seeds, folds or images, from the runs' predictions.
        without_duplicates: a file that ``data check --format json`` wrote, or several: add
            ``test/accuracy_unseen``, without the images that training or choosing has seen.
        pruned: whether runs have rows that a search gave up.
        plots: a directory for figures, PNG and SVG.
        html: a file for all of it as one page.

    Returns:
        ``rows``, each with ``model``, ``n``, the settings that differ, metrics as
        ``{"mean", "std"}``, and its ``verdict``; ``tables`` (``title``, ``conclusion``,
        ``margin``, ``notes``); ``left_out``, runs with a reason; ``baseline``, the row's number.
        ``to_dataframe()`` has a line for each row, as ``--format csv``; it prints as a table.

    Raises:
        UsageError: a path holds no run, or a column, a condition or the baseline is wrong.
        DiskError: a file cannot be written.

    Example:
        >>> [row] = cnnbench.compare(run)["rows"]
        >>> row["model"], row["n"]
        ('lenet', 1)
    """
    from cnnbench.analysis.results import comparison_result, listed

    selection = {"where": where, "sort": sort, "descending": descending, "group": group}
    judging = {"baseline": baseline, "margin": margin, "pruned": pruned}
    more = {"calibration": calibration, "without_duplicates": listed(without_duplicates)}
    found = comparison(paths, plots=plots, html=html, **selection, **judging, **more)
    return comparison_result(found)


def comparison(
    paths: str | Path | Sequence[str | Path],
    *,
    plots: str | Path | None = None,
    html: str | Path | None = None,
    **selection: Any,
) -> Comparison:
    """Do what `compare` does, and return the object that its printed tables are made from."""
    from cnnbench.analysis.compare.tables import compare_runs
    from cnnbench.analysis.results import listed
    from cnnbench.files import expand_path
    from cnnbench.notices import notice

    page = expand_path(html)
    if page is not None and page.is_dir():
        raise UsageError(f"--html {html}: is a directory; give a file, such as report.html")
    found = compare_runs(listed(paths), **selection)
    if plots is not None:
        from cnnbench.analysis.compare.plots import plot_comparison

        directory = expand_path(plots)
        notice(f"{len(plot_comparison(found, directory))} files in {directory}")
    if page is not None:
        from cnnbench.analysis.compare.report import write_report

        write_report(found, page)
        notice(str(page))
    return found


def compare_errors(
    run_a: str | Path,
    run_b: str | Path,
    *,
    plots: str | Path | None = None,
    model_path: str | None = None,
    data_path: str | None = None,
) -> Result:
    """Compare two runs image by image on the test split that both have.

    Adds one to the ``test_reads`` of both.

    Args:
        run_a: a run directory.
        run_b: another one, trained on the same data.
        plots: a directory for the images that only one gets right.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.
        data_path: ``FILE:NAME`` of data of your own, likewise.

    Returns:
        ``runs``, ``split``, ``num_images``, ``both_right``, ``only_a_right``, ``only_b_right``,
        ``both_wrong``, ``p`` (McNemar's exact test) and ``images``: those that only one gets
        right, with ``index`` in the split, ``class``, ``right`` (A or B), and what ``a`` and ``b``
        took them for.

    Raises:
        UsageError: one is no run, or their test images are not the same.
        CheckpointError: a run is damaged or foreign.
        DataError: the data is missing or damaged, or not the data they were trained on.
        DiskError: a file cannot be written.

    Example:
        >>> result = cnnbench.compare_errors(run, run)
        >>> result["only_a_right"], result["p"]
        (0, 1.0)
    """
    from cnnbench.files import expand_path
    from cnnbench.runs.directory import open_run

    a, b = open_run(run_a), open_run(run_b)
    from cnnbench.analysis.compare import disagreement
    from cnnbench.analysis.results import Result
    from cnnbench.notices import notice

    directory = expand_path(plots)
    result, files = disagreement.compare_errors(a, b, directory, model_path, data_path)
    for file in files:
        notice(str(file))
    return Result(result)


def pack(
    paths: str | Path | Sequence[str | Path],
    file: str | Path,
    *,
    weights: bool = False,
    **selection: Any,
) -> Result:
    """Write trained runs with their table as one zip file that a reader can check.

    It holds the table as text, Markdown, CSV, LaTeX and JSON, the page and the figures of
    `compare`, a reproducibility checklist filled in from the records, and each run's config,
    record, log and predictions, with the SHA-256 of each file.

    Args:
        paths: as of `compare`; unfinished runs are left out, and listed.
        file: of the package, such as ``paper.zip``; it is replaced.
        weights: whether to add the selected epoch's weights of each run.
        selection: ``where``, ``sort``, ``descending``, ``group``, ``baseline`` and ``margin``, as
            `compare` takes them.

    Returns:
        ``package`` (the path), ``num_runs``, ``num_left_out``, ``num_files``, ``num_bytes``, and
        ``files_with_home``: how many of its files name the home directory of this user.

    Raises:
        UsageError: a path holds no finished run, the file has another ending, or the selection is
            wrong.
        CheckpointError: weights were asked for and are missing or damaged.
        DiskError: the file cannot be written; an older one stands.

    Example:
        >>> cnnbench.pack([run], "paper.zip")["num_runs"]
        1
    """
    from cnnbench.files import expand_path

    target = expand_path(file)
    if target.suffix.lower() != ".zip" or target.is_dir():
        raise UsageError(f"{file}: expected a file for the package that ends in .zip, given last")
    from cnnbench.analysis.pack.write import pack_runs
    from cnnbench.analysis.results import Result, listed

    return Result(pack_runs(listed(paths), target, weights=weights, **selection))


def verify(file: str | Path) -> Result:
    """Compute anew every number of a package that follows from its predictions and configs.

    From the predictions: accuracy, loss, confusion matrix, and all of the table that rests on
    them, verdicts included; from the configs: run keys, and parameters, MACs and receptive field
    of networks of the registry; from the logs: the selected epoch. The package may be a
    stranger's: nothing in it is run.

    Args:
        file: as `pack` wrote it.

    Returns:
        ``num_runs``; ``equal`` and ``recorded_only``, how many numbers by what they are: computed
        anew and found equal, or given by nothing in the package, such as seconds; ``differs``, a
        list of ``where``, ``what``, ``recorded`` and ``recomputed``; ``num_equal``,
        ``num_differing``, ``notes``, ``package`` and ``code_version``, which made it.

    Raises:
        UsageError: there is no such file.
        CheckpointError: it is no package, damaged, or larger than is unpacked.

    Example:
        >>> _ = cnnbench.pack([run], "paper.zip")
        >>> cnnbench.verify("paper.zip")["differs"]
        []
    """
    from cnnbench.analysis.pack.verify import verify_package
    from cnnbench.analysis.results import Result
    from cnnbench.files import expand_path

    return Result(verify_package(expand_path(file)))


def reproduce(
    name: str, settings: str | Sequence[str] = (), *, run: str | Path | None = None
) -> Result:
    """Train a recorded recipe once more, and say whether it gives what was recorded.

    Args:
        name: of a result in ``results/``, such as a preset's, or a ``.json`` file of one.
        settings: ``seed=N``, by default the first that was not recorded, and what does not decide
            the result.
        run: a finished run of the recipe, which is judged in place of a new one.

    Returns:
        ``value``, the new run's ``metric``; ``recorded`` with ``mean``, ``std`` and ``n``;
        ``interval``, in which 95 % of new runs fall, None beside one recorded run; ``verdict``:
        ``inside`` or ``outside`` it; ``equal`` or ``different`` where the seed was recorded on
        the same kind of machine, torch, threads and code; ``reported`` where the machine is of
        another kind or one run was recorded, with the ``reason``.

    Raises:
        UsageError: there is no such result, a setting would make it another recipe, or the run is
            of another one.
        DataError: the file is damaged; or as of `train`, whose other errors are raised too.

    Example:
        >>> cnnbench.reproduce("fashion_mnist_24tflop")["verdict"]  # doctest: +SKIP
        'inside'
    """
    from cnnbench.analysis.reproduce import judge_run, train_again
    from cnnbench.analysis.results import Result
    from cnnbench.config.settings import words

    if run is None:
        run = train_again(name, words(settings), sys.argv)
    return Result(judge_run(name, run))


def features(
    run: str | Path | Sequence[str | Path],
    images: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    model_path: str | None = None,
) -> Rows:
    """Draw what trained networks see in images, and return what they answer.

    Args:
        run: a run directory, or several; their data sets are not needed.
        images: image files of any size, or folders of them.
        output: directory for all that is written; by default the run directories.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.

    Returns:
        For each image and run ``run``, ``model``, ``file``, ``class``, ``probability`` in
        [0, 1], ``top`` (the five likeliest), ``first_layer``, ``stages`` (``name``, ``shape``,
        ``receptive_field`` in pixels, None where it is the whole image of any size,
        ``measured_receptive_field``, ``seen``), ``note`` and ``files``; with several runs also
        ``side_by_side``, files.

    Raises:
        UsageError: it is no run, or another process is writing to it.
        CheckpointError: a run is damaged or foreign.
        DataError: a file is missing or no image.
        DiskError: a file cannot be written.

    Example:
        >>> [row] = cnnbench.features(run, "digit.png", output="seen")
        >>> row["files"][0].endswith((".png", ".svg"))
        True
    """
    runs = [run] if isinstance(run, (str, Path)) else list(run)
    files = [images] if isinstance(images, (str, Path)) else list(images)
    if not runs or not files:
        raise UsageError("features: give a run directory and an image: RUN... IMAGE...")
    from cnnbench.files import expand_path
    from cnnbench.runs.directory import open_run

    opened = [open_run(path) for path in runs]
    from cnnbench.analysis.features.write import write_features
    from cnnbench.analysis.results import Rows

    directory = expand_path(output)
    return Rows(write_features(opened, files, directory, model_path))


def export(
    run: str | Path,
    *,
    to: str,
    output: str | Path | None = None,
    model_path: str | None = None,
    data_path: str | None = None,
) -> Result:
    """Write a run's network, preprocessing included, as a file for other programs.

    Args:
        run: a run directory.
        to: ``onnx``, or ``torch`` for a program of `torch.export`.
        output: the file; by default the network's name in the run directory. It is replaced.
        model_path: ``FILE:CLASS`` of a network of your own, which no run may name itself.
        data_path: ``FILE:NAME`` of data of your own, likewise.

    Returns:
        ``run``, ``to``, ``file``, ``num_bytes``, ``input`` (``dtype``, ``shape``),
        ``class_names``, ``compared_on``, ``batch_sizes``, ``largest_difference`` (of a logit, as a
        fraction of the largest) and ``tolerance``.

    Raises:
        UsageError: it is no run, the network cannot be exported or the file does not give its
            logits, or the extra is not installed.
        CheckpointError: the run is damaged or foreign.
        DiskError: the file cannot be written.

    Example:
        >>> result = cnnbench.export(run, to="torch", output="lenet.pt2")
        >>> result["largest_difference"] <= result["tolerance"]
        True
    """
    if to not in EXPORT_TARGETS:
        raise UsageError(f"--to {to}: unknown{expected_names(to, EXPORT_TARGETS)}")
    from cnnbench.files import expand_path
    from cnnbench.runs.directory import open_run

    directory = open_run(run)
    from cnnbench.analysis.export import export_run
    from cnnbench.analysis.results import Result

    file = expand_path(output)
    return Result(export_run(directory, to, file, model_path, data_path))


def create_model(
    name: str,
    *,
    in_channels: int = 1,
    num_classes: int = 10,
    image_size: int = 28,
    init: str = "default",
    **args: Any,
) -> nn.Module:
    """Build a network with new weights, in training mode.

    Args:
        name: one of `list_models`.
        in_channels: channels of the images, at least 1.
        num_classes: logits to give; 1 for two classes, or for a number.
        image_size: pixels of a side; images are square.
        init: the initial weights, as ``model.init`` takes it; by default PyTorch's own.
        args: the network's own arguments, as in ``conf/model/<name>.yaml``.

    Returns:
        A module that maps (N, in_channels, image_size, image_size) to logits (N, num_classes).

    Raises:
        UsageError: a name is unknown, a value is impossible, or the images are too small.

    Example:
        >>> network = cnnbench.create_model("resnet18", in_channels=3, image_size=32)
        >>> network(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    from cnnbench import models

    network = models.create_model(
        name, in_channels=in_channels, num_classes=num_classes, image_size=image_size, args=args
    )
    models.initialize(network, init)
    return network


def list_models(pattern: str = "*") -> list[str]:
    """Return the names that `create_model` takes, those of other installed packages included.

    Args:
        pattern: of the names, such as ``resnet*``.

    Returns:
        The names in the order of ``cnnbench ls model``; none where no name is so.

    Raises:
        UsageError: two packages have networks of the same name.

    Example:
        >>> cnnbench.list_models("lenet*")
        ['lenet']
    """
    from fnmatch import fnmatchcase

    from cnnbench import models

    return [name for name in models.known_models() if fnmatchcase(name, pattern)]


def load_data(
    name: str,
    settings: str | Sequence[str] = (),
    *,
    config_dir: str | Path | None = None,
    **keys: Any,
) -> LoadedData:
    """Return a data set's splits for a training loop of your own.

    Args:
        name: see ``cnnbench ls data``.
        settings: as on the command line, such as ``augment=crop``, ``seed=1`` or ``loss=mse``.
        config_dir: a directory with groups of your own.
        keys: of the data set, such as ``batch_size=64`` or ``root="~/data"``.

    Returns:
        An object with ``train``, ``val`` and ``test``; iterating one gives its batches, network
        input (n, C, S, S) and targets (n,), each time the next epoch, and ``len`` counts them;
        ``images`` (uint8, before normalisation) and ``targets`` are all of it as arrays. Beside
        them ``class_names``, ``mean`` and ``std``.

    Raises:
        UsageError: a name is unknown, or a value is impossible.
        DataError: the data is missing or damaged.

    Example:
        >>> data = cnnbench.load_data("digits", batch_size=32, image_size=8)
        >>> images, targets = next(iter(data.train))
        >>> images.shape, data.test.images.shape
        (torch.Size([32, 1, 8, 8]), (359, 1, 8, 8))
    """
    from cnnbench.config.command import data_config
    from cnnbench.config.compose import Composer

    config = data_config(Composer(config_dir), name, settings, keys)
    from cnnbench.training.loaded import LoadedData

    return LoadedData(config)
