"""Results that were measured and committed: ``results/NAME.json``, one file for each recipe.

``python -m cnnbench.analysis.recorded NAME RUN...`` writes one from finished runs that differ in
their seed alone, and ``cnnbench reproduce NAME`` runs it again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cnnbench.analysis.compare.records import Record, read_runs
from cnnbench.analysis.compare.rows import fold_seeds
from cnnbench.config.command import single_config
from cnnbench.config.compose import Composer
from cnnbench.config.roles import CONTENT
from cnnbench.config.run_config import role_of, to_tree
from cnnbench.config.settings import leaves
from cnnbench.errors import CnnbenchError, DataError, UsageError, expected_names
from cnnbench.files import atomic_write, read_regular, writing
from cnnbench.notices import notice
from cnnbench.runs.columns import finite_number
from cnnbench.runs.directory import open_run
from cnnbench.runs.network import read_weights
from cnnbench.runs.provenance import code_version, device_kind
from cnnbench.runs.record import RunRecord

FORMAT = 1
_MAX_BYTES = 1 << 20
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, RecursionError)


@dataclass(frozen=True)
class RecordedRun:
    """One run of a recorded result.

    Attributes:
        seed: of the run.
        test: the metric of the test images.
        val: the same of the validation images; None without any.
        seconds: that training took, evaluation left out.
        tflop: of training.
        weights_sha256: of the selected epoch's weights.
    """

    seed: int
    test: float
    val: float | None
    seconds: float
    tflop: float
    weights_sha256: str


@dataclass(frozen=True)
class RecordedResult:
    """What a recipe gave.

    Attributes:
        name: of the file, and where there is one of the preset.
        command: the command line of its first run.
        commit: of the code, where that was a commit as it stands; else None.
        date: on which its last run started, UTC.
        code_version: of the package.
        device: kind of the CPU, such as ``AMD EPYC (AVX512, bf16)``, or GPU.
        torch: its version.
        num_threads: that computed.
        precision: that was effective.
        metric: what is measured on the test images.
        num_test: test images; None where it was not recorded.
        model: facts of the network: ``num_params``, ``macs``.
        config: what decides the result but the seed, nested.
        runs: one for each seed, in order.
    """

    name: str
    command: str
    commit: str | None
    date: str
    code_version: str | None
    device: str | None
    torch: str | None
    num_threads: int | None
    precision: str | None
    metric: str
    num_test: int | None
    model: Mapping[str, Any]
    config: Mapping[str, Any]
    runs: tuple[RecordedRun, ...] = field(default_factory=tuple)

    @property
    def values(self) -> list[float]:
        """What its runs scored on the test images."""
        return [run.test for run in self.runs]


def results_dir() -> Path:
    """Return the directory of committed results: in the package when installed, beside it else."""
    package = Path(__file__).parents[1]
    inside = package / "results"
    return inside if inside.is_dir() else package.parent / "results"


def known_results() -> list[str]:
    """Return the names of all committed results."""
    root = results_dir()
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.json"))


def read_recorded(name: str) -> RecordedResult:
    """Return a committed result by its name, or one of a file.

    Args:
        name: such as ``fashion_mnist_24tflop``, or a path that ends in ``.json``.

    Raises:
        UsageError: there is none of that name.
        DataError: the file is damaged or of another kind.
    """
    known = known_results()
    is_file = name.endswith(".json")
    if not is_file and name not in known:
        said = expected_names(name, known) if known else "; none was committed yet"
        raise UsageError(f"{name}: there is no recorded result of that name{said}")
    file = Path(name) if is_file else results_dir() / f"{name}.json"
    try:
        tree = json.loads(read_regular(file, _MAX_BYTES))
        if not isinstance(tree, dict):
            raise ValueError("it is no JSON object")
        if tree["format"] != FORMAT:
            raise ValueError(f"its format is {tree['format']}, this version reads {FORMAT}")
        return _recorded(tree)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not a recorded result: no JSON, {error}") from None
    except KeyError as error:
        raise DataError(f"{file}: not a recorded result: it has no {error}") from None
    except _MALFORMED as error:
        raise DataError(f"{file}: not a recorded result: {error}") from None


def _recorded(tree: Mapping[str, Any]) -> RecordedResult:
    """Return what a file says; what is in it is data, and is checked where it is used."""
    runs = []
    for node in tree["runs"]:
        numbers = [finite_number(node[key]) for key in ("test", "seconds", "tflop")]
        if None in numbers or type(node["seed"]) is not int:
            raise ValueError("a run lacks a number")
        runs.append(RecordedRun(**{**node, "val": finite_number(node["val"])}))
    if not runs:
        raise ValueError("it has no runs")
    tree = {key: value for key, value in tree.items() if key != "format"}
    return RecordedResult(**{**tree, "runs": tuple(runs), "config": dict(tree["config"])})


def write_recorded(recorded: RecordedResult, file: Path) -> None:
    """Write a result as JSON that people read, too.

    Raises:
        DiskError: it cannot be written.
    """
    text = json.dumps({"format": FORMAT, **asdict(recorded)}, indent=1)
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, f"{text}\n".encode())


def record_runs(name: str, paths: Sequence[str | Path]) -> RecordedResult:
    """Return the result of finished runs that differ in their seed alone.

    Args:
        name: of the result; where a preset has it, the runs must be that preset's.
        paths: runs, or directories with runs below.

    Raises:
        UsageError: they are no such runs, or nobody else could repeat them.
    """
    found, left_out = read_runs(paths)
    rows = fold_seeds(found, left_out)
    if len(rows) != 1:
        differ = _differing([row.records[0] for row in rows])
        why = f": they differ in {', '.join(differ)}" if differ else ""
        raise UsageError(f"{name}: expected runs of one recipe, found {len(rows)}{why}")
    if left_out:
        raise UsageError(f"{name}: {left_out[0].path} is left out: {left_out[0].reason}")
    records = [open_run(record.path).record for record in rows[0].records]
    first, last = records[0], max(records, key=lambda r: r.provenance.processes[-1].started)
    versions = {
        (process.code_version, process.machine.get("torch"), device_kind(process))
        for record in records
        for process in record.provenance.processes
    }
    if len(versions) > 1 or any(record.resumed_with for record in rows[0].records):
        raise UsageError(
            f"{name}: the runs are of several versions of the code or torch or of several kinds of "
            "machine, or were resumed on another; expected one"
        )
    recorded = RecordedResult(
        name=name,
        # Where it wrote is of the machine, not of the result.
        command=shlex.join(
            ["cnnbench", *(w for w in first.command[1:] if not w.startswith("output_root="))]
        ),
        commit=_commit() if first.provenance.code_version == code_version() else None,
        date=last.provenance.processes[-1].started[:10],
        **deciding(first),
        metric=rows[0].score,
        num_test=first.data.num_test,
        model={key: first.model.get(key) for key in ("name", "num_params", "macs")},
        config=_recipe(first),
        runs=tuple(map(_run, rows[0].records)),
    )
    _check_preset(recorded)
    return recorded


def deciding(record: RunRecord) -> dict[str, Any]:
    """Return what decided a run's bits beside its config, as ``RecordedResult`` names it."""
    process = record.provenance.processes[-1]
    return {
        "code_version": record.provenance.code_version,
        "device": device_kind(process),
        "torch": process.machine.get("torch"),
        "num_threads": process.effective.get("num_threads"),
        "precision": process.effective.get("precision"),
    }


def _differing(records: Sequence[Record]) -> list[str]:
    keys = {key: None for record in records for key in record.settings}
    return [
        key for key in keys if len({json.dumps(record.settings.get(key)) for record in records}) > 1
    ][:5]


def _run(record: Record) -> RecordedRun:
    results = open_run(record.path).record.results
    metric = record.score
    if finite_number(results.get(metric)) is None:
        raise UsageError(
            f"{record.path}: has no {metric}: it was trained with evaluate_test=false; expected a "
            "run that has read the test images"
        )
    digest = weights_sha256(record.path)
    return RecordedRun(
        seed=record.seed,
        test=float(results[metric]),
        val=finite_number(results.get(f"val/{metric.partition('/')[2]}")),
        seconds=round(float(results["train_seconds"]), 1),
        tflop=float(results["train_tflop"]),
        weights_sha256=digest,
    )


def weights_sha256(run: Path) -> str:
    """Return the SHA-256 of a run's selected weights: names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read_weights(run)[0]["model"].items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.contiguous().flatten().view(-1).numpy().tobytes())
    return digest.hexdigest()


def _recipe(record: RunRecord) -> dict[str, Any]:
    """Return what decides a run's result but its seed, nested.

    Raises:
        UsageError: files of this machine do, which nobody else has.
    """
    tree: dict[str, Any] = {}
    for key, value in leaves(record.config):
        role = role_of(key)
        if role == CONTENT and value is not None:
            raise UsageError(
                f"{key}={value}: this run was made from a file that others do not have, so that "
                "nobody could reproduce it"
            )
        if role.in_run_key and key != "seed":
            node = tree
            *groups, last = key.split(".")
            for group in groups:
                node = node.setdefault(group, {})
            node[last] = value
    return tree


def _check_preset(recorded: RecordedResult) -> None:
    """Refuse runs under the name of a preset that they are not of."""
    if changed := changed_keys(recorded):
        raise UsageError(
            f"{recorded.name}: the runs are not of experiment={recorded.name}, which has other "
            f"{', '.join(changed)}; give the result another name, or run the preset as it is"
        )


def changed_keys(recorded: RecordedResult) -> list[str]:
    """Return the keys in which the preset of a result's name is another recipe now."""
    composer = Composer()
    if recorded.name not in composer.groups.choices("experiment"):
        return []
    settings = composer.parse([f"experiment={recorded.name}"])
    now = dict(leaves(to_tree(single_config(composer, settings))))
    then = dict(leaves(recorded.config))
    decides = [key for key in {**then, **now} if role_of(key).row == "value"]
    return [key for key in decides if key in then and now.get(key) != then[key]]


def _commit() -> str | None:
    """Return the commit of the code that runs; None where it is no commit as it stands."""
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        call = ["git", "-C", str(root), *words]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout.strip()

    try:
        if git("status", "--porcelain", "--", "cnnbench", "conf"):
            return None
        return git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def main(words: Sequence[str]) -> int:
    """Write ``results/NAME.json`` from runs."""
    parser = argparse.ArgumentParser(prog="python -m cnnbench.analysis.recorded")
    parser.add_argument("name", help="of the result: the preset's, where it is of one")
    parser.add_argument("runs", nargs="+", help="finished runs that differ in their seed alone")
    args = parser.parse_args(words)
    try:
        recorded = record_runs(args.name, args.runs)
        file = results_dir() / f"{args.name}.json"
        write_recorded(recorded, file)
    except CnnbenchError as error:
        notice(str(error))
        return error.exit_code
    print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
