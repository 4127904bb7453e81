"""The shipped choices of the groups, as their files have them."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from cnnbench.config.groups import conf_dir


def shipped(group: str, name: str) -> dict[str, Any]:
    """Return what a choice's file says, the caller's to change."""
    return dict(_read(group, name))


@cache
def _read(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((conf_dir() / group / f"{name}.yaml").read_text(encoding="utf-8"))


def needed(group: str, name: str) -> list[str]:
    """Return settings for what a choice cannot do without."""
    return [
        f"{group}.{key}=/given" for key, value in shipped(group, name).items() if value == "???"
    ]
