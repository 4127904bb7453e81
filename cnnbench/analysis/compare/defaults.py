"""Which settings of rows only follow from other choices, as their YAML files say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from cnnbench.config.groups import Groups, conf_dir
from cnnbench.config.run_config import GROUPS
from cnnbench.rendering.text import setting_text

# The one form of interpolation in conf/: the network's own value, or else a plain one.
_OF_MODEL = re.compile(r"\$\{oc\.select:model\.(\w+),([^{}]*)\}")


def is_default(settings: Mapping[str, Any], key: str) -> bool:
    """Tell whether a setting has the value that the row's choices give it.

    Args:
        settings: of a row, by the keys that a person types.
        key: such as ``optimizer.lr``; a choice itself, such as ``optimizer``, is never a default.
    """
    import yaml

    group, _, name = key.partition(".")
    if group not in GROUPS or not name:
        return False
    values = _values(group, setting_text(settings.get(group)))
    if values is None:
        return False
    value = values.get(name)
    if isinstance(value, str) and "${" in value:
        found = _OF_MODEL.fullmatch(value)
        model = _values("model", setting_text(settings.get("model")))
        if found is None or model is None:
            return False
        value = model.get(found[1], yaml.safe_load(found[2]))
    return setting_text(value) == setting_text(settings.get(key))


@cache
def _values(group: str, choice: str) -> dict[str, Any] | None:
    """Return what the YAML file of a shipped choice says; None where there is none."""
    import yaml

    groups = Groups()
    if choice not in groups.choices(group):
        return None
    try:
        files = (conf_dir() / "train.yaml", groups.file(group, choice))
    except StopIteration:  # another package's
        return None
    common, own = (yaml.safe_load(file.read_text(encoding="utf-8")) for file in files)
    return {**(common.get(group) or {}), **own}
