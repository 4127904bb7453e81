"""The groups of ``conf/``, a directory of the user's own beside them, and the choices of each."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from cnnbench.config.run_config import GROUPS, PRESET_GROUPS
from cnnbench.errors import UsageError, expected_names
from cnnbench.files import expand_path
from cnnbench.registry import plugins

ALL_GROUPS = (*GROUPS, *PRESET_GROUPS)


def conf_dir() -> Path:
    """Return the directory of the shipped YAML: in the package when installed, beside it else."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


class Groups:
    """The choices of each group: shipped, of the user's directory, and of other packages.

    Args:
        config_dir: a directory with groups of the user's own, laid out like ``conf/``; its choices
            add to the shipped ones.

    Attributes:
        own: that directory, absolute, or None.

    Raises:
        UsageError: there is no such directory, it holds no group, or it repeats a shipped choice.

    Example:
        >>> "lenet" in Groups().choices("model")
        True
    """

    def __init__(self, config_dir: str | Path | None = None) -> None:
        self.own = expand_path(config_dir)
        self._choices: dict[str, dict[str, str]] = {}
        if self.own is None:
            return
        if not self.own.is_dir():
            raise UsageError(f"--config-dir {config_dir}: there is no such directory")
        if not any((self.own / group).is_dir() for group in ALL_GROUPS):
            expected = ", ".join(ALL_GROUPS)
            raise UsageError(f"--config-dir {config_dir}: holds no folder of {expected}")
        for group in ALL_GROUPS:
            # Hydra reads .yaml alone; such a file would be passed over without a word.
            for path in (self.own / group).rglob("*"):
                is_yaml = path.suffix.lower() in (".yaml", ".yml") and path.is_file()
                if is_yaml and path.suffix != ".yaml":
                    raise UsageError(f"{path}: rename it to {path.stem}.yaml to have it read")
            self.choices(group)

    def choices(self, group: str) -> dict[str, str]:
        """Return the choices of a group, each with its one-line description.

        Raises:
            UsageError: there is no such group, or the user's directory repeats a shipped choice.
        """
        if group in self._choices:
            return self._choices[group]
        if group not in ALL_GROUPS:
            raise UsageError(f"unknown group '{group}'{expected_names(group, ALL_GROUPS)}")
        found: dict[str, str] = {}
        for root in self._roots():
            for path in _yaml_below(root / group):
                # A choice in a folder of its group is named with it: notes/alexnet.
                name = path.relative_to(root / group).with_suffix("").as_posix()
                if name in found:
                    raise UsageError(f"{path}: {group}={name} is a shipped choice; rename it")
                found[name] = _description(path)
        found |= plugins(group, found)
        self._choices[group] = dict(sorted(found.items()))
        return self._choices[group]

    def file(self, group: str, choice: str) -> Path:
        """Return the YAML file of a choice that is shipped or the user's own."""
        paths = (root / group / f"{choice}.yaml" for root in self._roots())
        return next(path for path in paths if path.is_file())

    def comments(self, chosen: Mapping[str, str]) -> dict[str, str]:
        """Return what the YAML says of each key, by its dotted name: its meaning and range.

        Args:
            chosen: by group the choice, whose own description stands at the group's ``name``.
        """
        found = _comments(conf_dir() / "train.yaml")
        for group, choice in chosen.items():
            with contextlib.suppress(StopIteration):  # of another package
                own = _comments(self.file(group, choice))
                found |= {f"{group}.{key}": text for key, text in own.items()}
            found[f"{group}.name"] = self.choices(group).get(choice, "")
        return found

    def keys(self, group: str, choice: str) -> list[str]:
        """Return the keys that a choice's YAML has; none where another package gives it."""
        with contextlib.suppress(StopIteration):
            text = _text(self.file(group, choice))
            return [m["key"] for line in text.splitlines() if (m := _LINE.match(line))]
        return []

    def default(self, group: str) -> str:
        """Return the choice of a group that a command need not name."""
        text = _text(conf_dir() / "train.yaml")
        match = re.search(rf"^  - {group}: (\w+)", text, re.MULTILINE)
        return match[1] if match else ""

    def naming(self, text: str) -> Path | None:
        """Return the first file of the user's directory that has a text, or None."""
        files = _yaml_below(self.own) if self.own is not None else ()
        return next((f for f in files if text in _text(f)), None)

    def file_stats(self) -> frozenset[tuple[str, int, int]]:
        """Return each YAML file's path, time of change and size."""
        paths = (path for root in self._roots() for path in _yaml_below(root))
        return frozenset((str(p), (s := p.stat()).st_mtime_ns, s.st_size) for p in paths)

    def _roots(self) -> list[Path]:
        return [root for root in (conf_dir(), self.own) if root is not None]


def _yaml_below(root: Path) -> list[Path]:
    """Return the YAML files; an editor's lock is a link to nothing that ends like them."""
    return sorted(path for path in root.rglob("*.yaml") if path.is_file())


def _text(path: Path) -> str:
    """Return what a YAML file says, without the mark that some editors put before UTF-8.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8, as YAML has to be ({error})") from None


_LINE_WIDTH, _LEAST_COMMENT = 80, 30
_LINE = re.compile(r"(?P<space> *)(?P<key>\w+):(?:.*?\s# (?P<comment>.*))?")


def _comments(path: Path) -> dict[str, str]:
    """Return the comments beside the keys of a YAML file of at most two levels."""
    found, group = {}, ""
    for line in _text(path).splitlines():
        if match := _LINE.fullmatch(line) or _LINE.match(line):
            key = match["key"]
            group = group if match["space"] else key
            if match["comment"]:
                found[f"{group}.{key}" if match["space"] else key] = match["comment"]
    return found


def with_comments(text: str, comments: Mapping[str, str]) -> str:
    """Return YAML of at most two levels with a comment beside each key that has one."""
    lines, group = [], ""
    for line in text.splitlines():
        match = _LINE.match(line)
        key = match["key"] if match else ""
        group = group if line.startswith(" ") else key
        comment = comments.get(f"{group}.{key}" if line.startswith(" ") else key)
        lines += _commented(line, comment or "")
    return "".join(f"{line}\n" for line in lines)


def _commented(line: str, comment: str) -> list[str]:
    """Return a line with its comment, which goes on below itself where 80 columns end."""
    room = max(_LINE_WIDTH - len(line) - len("  # "), _LEAST_COMMENT)
    first, *rest = textwrap.wrap(comment, room, break_on_hyphens=False) or [""]
    below = [f"{' ' * len(line)}  # {part}" for part in rest]
    return [f"{line}  # {first}" if first else line, *below]


def _description(path: Path) -> str:
    lines = _text(path).splitlines()
    comments = (line.strip("# ") for line in lines if line.startswith("#"))
    return next((text for text in comments if "@package" not in text), "")
