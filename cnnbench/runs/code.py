"""Code of the user's own that a run was trained with: named again by hand, and the same."""

from __future__ import annotations

from dataclasses import replace

from cnnbench.config.run_config import RunConfig
from cnnbench.errors import CheckpointError, UsageError
from cnnbench.files import expand_path, file_sha256
from cnnbench.runs.directory import RunDir

# Under which names a run records the hashes of such files.
RECORDED = {"model.path": "path", "data.path": "data_path"}


def check_code(run: RunDir, key: str, named: str) -> None:
    """Compare what the user names with what a run recorded; nothing is run.

    Args:
        run: an existing run.
        key: ``model.path`` or ``data.path``.
        named: ``FILE:NAME``, from the person at the keyboard.

    Raises:
        CheckpointError: it is another file or another name.
        UsageError: the file cannot be read.
    """
    file, _, name = named.rpartition(":")
    recorded = run.record.provenance.model_files.get(RECORDED[key])
    if f"{file_sha256(expand_path(file), key)}:{name}" != recorded:
        raise CheckpointError(f"{key}={named}: not what this run was trained with")


def with_named_data(run: RunDir, data_path: str | None) -> RunConfig:
    """Return a run's config, whose data's code is that which the user names.

    Args:
        run: an existing run.
        data_path: ``FILE:NAME``, needed where the data is the user's own, and useless elsewhere.

    Raises:
        UsageError: the data is the user's own, and ``data_path`` is missing; or it is not.
        CheckpointError: it is not what the run was trained with.
    """
    data = run.config.data
    if data.name != "custom":
        if data_path is not None:
            raise UsageError(f"--data-path {data_path}: {run.path} has data={data.name}")
        return run.config
    if data_path is None:
        raise UsageError(
            f"{run.path}: data of someone's own ({data.args.get('path')}). Code that a run names "
            "is not run; name it yourself: --data-path FILE:NAME"
        )
    check_code(run, "data.path", data_path)
    args = {**data.args, "path": data_path}
    return replace(run.config, data=replace(data, args=args))
