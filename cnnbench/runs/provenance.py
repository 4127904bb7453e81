"""What ``run.json`` says of where a run's numbers come from, and what makes two runs the same."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from cnnbench.config.run_config import RunConfig, role_of, to_tree
from cnnbench.config.settings import leaves
from cnnbench.errors import DataError
from cnnbench.runs.directory import code_version, model_files


def run_key(
    config: RunConfig,
    *,
    data_fingerprint: str,
    code_version: str,
    model_files: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the SHA-256 of all that decides a run's result.

    Which keys count follows from their roles (``config/roles.py``): the same run under another
    output root, with other log lines, is the same run.

    Args:
        config: of the run.
        data_fingerprint: of the data's files.
        code_version: of the package.
        model_files: hashes of the files that the network is made from, by their keys in ``model``.
    """
    values = leaves(to_tree(config))
    parts = {
        "config": {key: value for key, value in values if role_of(key).in_run_key},
        "data": data_fingerprint,
        "code": code_version,
        "model_files": dict(model_files),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_same_data(before: Mapping[str, Any], *, name: str, sha256: str, source: str) -> None:
    """Refuse to go on with other data.

    Args:
        before: what ``run.json`` says; empty for a new run.
        name: of the data set.
        sha256: of the data that was read now.
        source: where it was read.

    Raises:
        DataError: its hash is not the recorded one.
    """
    recorded = before.get("data", {}).get("sha256", sha256)
    if recorded != sha256:
        raise DataError(
            f"{name}: {source} is not the data this run was started on "
            f"(SHA-256 {sha256[:12]}, recorded {str(recorded)[:12]})"
        )


def provenance(
    before: Mapping[str, Any],
    config: RunConfig,
    *,
    command: Sequence[str],
    data_fingerprint: str,
    in_force: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what made the results: the code, the run key, and each process's machine.

    Args:
        before: what ``run.json`` says; empty for a new run.
        config: of the run.
        command: the command line of this process.
        data_fingerprint: of the data's files.
        in_force: what this process computes with.
    """
    # Imported here: the run key of a sweep's jobs needs no torch.
    from cnnbench.device.machine import describe_machine

    recorded = before.get("provenance", {})
    # What a run was started from may be gone by the time it goes on.
    files = recorded.get("model_files") or model_files(config)
    process = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": list(command),
        "machine": describe_machine(),
        "in_force": dict(in_force),
    }
    key = run_key(
        config,
        data_fingerprint=data_fingerprint,
        code_version=code_version(),
        model_files=files,
    )
    return {
        "code_version": code_version(),
        "run_key": key,
        "model_files": files,
        "processes": [*recorded.get("processes", []), process],
    }
