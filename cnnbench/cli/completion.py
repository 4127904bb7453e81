"""``cnnbench completion``: what a shell needs to complete verbs, flags, settings and runs."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cnnbench.notices import visible

SHELLS = ("bash", "zsh", "fish")
FORMATS = ("text",)
DESCRIPTION = """\
Print what makes a shell complete verbs, flags, groups, their choices, keys with
their values, and runs, after the Tab key."""
_EXAMPLES = """\
Examples:
  bash  eval "$(cnnbench completion bash)"        in ~/.bashrc
  zsh   eval "$(cnnbench completion zsh)"         in ~/.zshrc, after compinit
  fish  cnnbench completion fish | source         in ~/.config/fish/config.fish

A line of these in the file of its shell's settings completes in every new one.
"""
# Each passes the line up to the cursor, and completes files where there is no answer. A candidate
# that ends in one of =./ goes on without a blank.
_SCRIPTS = {
    "bash": r"""_cnnbench() {
    local line="${COMP_LINE:0:COMP_POINT}" word head
    word="${line##* }"
    # What bash takes for a word begins after the last = or :, so that no reply may repeat it.
    head="${word%"${word##*[=:]}"}"
    local IFS=$'\n'
    COMPREPLY=($("${COMP_WORDS[0]}" completion bash --line "$line" 2>/dev/null | cut -f1))
    COMPREPLY=("${COMPREPLY[@]#"$head"}")
    [[ ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _cnnbench cnnbench
""",
    "zsh": r"""_cnnbench() {
    local -a going ended
    local line word
    for line in "${(@f)$("${words[1]}" completion zsh --line "$LBUFFER" 2>/dev/null)}"; do
        word="${line%%$'\t'*}"
        [[ -z $word ]] && continue
        if [[ $word == *[=./] ]]; then going+=("$word"); else ended+=("$word"); fi
    done
    if (( ${#going} + ${#ended} )); then
        compadd -S '' -a going
        compadd -a ended
    else
        compset -P '*='
        _files
    fi
}
compdef _cnnbench cnnbench
""",
    "fish": r"""function __cnnbench_complete
    set -l words (commandline -opc)
    set -l line (commandline -cp | string collect)
    set -l found ($words[1] completion fish --line "$line" 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        set -l word (commandline -ct)
        set -l head (string match -r '^[^=]*=' -- $word)
        __fish_complete_path (string replace -- "$head" '' $word) | string replace -r '^' "$head"
    end
end
complete -c cnnbench -f -a '(__cnnbench_complete)'
""",
}
# What stands after some verbs, word by word; the last kind stands for all that follow.
_SETTINGS, _RUN, _FILE = "settings", "run", "file"
_WORDS: dict[str, tuple[Any, ...]] = {
    "train": (_SETTINGS,),
    "bench": (_SETTINGS,),
    "summary": (_SETTINGS + _RUN,),
    "evaluate": (_RUN,),
    "predict": (_RUN, _FILE),
    "compare": (_RUN,),
    "features": (_RUN,),
    "export": (_RUN,),
    "completion": (SHELLS,),
}
_MAX_RUNS = 500
# A shell puts candidates on the command line as they are, and would run what $(...) or ; means in
# a name: a run's directory may come from anyone.
_INERT = re.compile(r"[\w./:=,+@%-]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's flags."""
    parser.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS), help="your shell")
    parser.add_argument("--line", metavar="TEXT", help="answer for a line that ends at the cursor")


def epilog() -> str:
    """Return how a shell takes it in."""
    return _EXAMPLES


def main(args: argparse.Namespace) -> int:
    """Run the verb."""
    if args.line is None:
        print(_SCRIPTS[args.shell], end="")
        return 0
    # One row each, "word" or "word TAB what it is".
    for word, text in candidates(args.line):
        print(f"{word}\t{text}" if text else word)
    return 0


def candidates(line: str) -> list[tuple[str, str]]:
    """Return what may stand at the end of a command line, each with a few words about it.

    Args:
        line: from the command's name to the cursor.

    Returns:
        Whole words, that of the line completed; nothing where it is a file's name or anything.

    Example:
        >>> candidates("cnnbench train model=mobilenet_v")
        [('model=mobilenet_v1', ''), ('model=mobilenet_v2', '')]
    """
    from cnnbench.cli.main import VALUE_FLAGS, VERBS

    *before, word = _words(line)
    before = [part for part in before[1:] if part != "help"]
    left = before[-1] if before else ""
    if left == "--config-dir" or left == "--config":
        return []
    plain = [
        part
        for part, previous in zip(before, ["", *before], strict=False)
        if not part.startswith("-") and previous not in VALUE_FLAGS and "=" not in part
    ]
    verb = plain[0] if plain else ""
    if not verb:
        more = {"help": "what a verb does", "--help": "", "--version": ""}
        found: Iterable[tuple[str, str]] = (VERBS | more).items()
    elif verb not in VERBS:
        return []
    elif left == "--format" or word.startswith("-"):
        found = _flags(verb, left)
    else:
        found = _after(verb, plain[1:], before, word)
    return [
        (text, visible(about))
        for text, about in found
        if text.startswith(word) and _INERT.fullmatch(text)
    ]


def _words(line: str) -> list[str]:
    """Return the words of a line; the last one is empty after a blank."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        is_new = not closing and line[-1:].isspace() and not line.endswith("\\ ")
        return [*words, ""] if is_new or not words else words
    return ["", ""]


def _flags(verb: str, left: str) -> list[tuple[str, str]]:
    from cnnbench.cli.main import parser_of

    parser = parser_of(verb, importlib.import_module(f"cnnbench.cli.{verb}"))
    if left == "--format":
        return [
            (str(c), "") for a in parser._actions if a.dest == "format" for c in a.choices or ()
        ]
    return [(flag, a.help or "") for a in parser._actions for flag in a.option_strings]


def _after(
    verb: str, plain: Sequence[str], before: Sequence[str], word: str
) -> list[tuple[str, str]]:
    from cnnbench.config.groups import ALL_GROUPS, Groups

    if verb == "ls":
        return [(group, "") for group in ALL_GROUPS]
    if verb in ("data", "runs"):
        actions = importlib.import_module(f"cnnbench.cli.{verb}").ACTIONS
        if not plain:
            return [(action, "") for action in actions]
        if verb == "runs":
            return _runs(word)
        if len(plain) == 1:
            return list(Groups(_config_dir(before)).choices("data").items())
        kinds: tuple[Any, ...] = (_SETTINGS,)
    else:
        kinds = _WORDS.get(verb, ())
    kind = kinds[min(len(plain), len(kinds) - 1)] if kinds else _FILE
    if not isinstance(kind, str):
        return [(text, "") for text in kind]
    found = _runs(word) if _RUN in kind else []
    return [*found, *(_settings(before, word) if _SETTINGS in kind else [])]


def _config_dir(before: Sequence[str]) -> str | None:
    at = before.index("--config-dir") + 1 if "--config-dir" in before else len(before)
    return before[at] if at < len(before) else None


def _runs(word: str) -> list[tuple[str, str]]:
    """Return the runs below ``outputs``: by a path where one is typed, else by their names."""
    from itertools import islice

    from cnnbench.runs.directory import find_runs

    paths = [run.path for run in islice(find_runs(Path("outputs")), _MAX_RUNS)]
    if "/" in word or (word and "outputs".startswith(word)):
        return [(str(path), "") for path in paths]
    return [("latest", "the newest run")] * bool(paths) + [
        (path.name, str(path.parent)) for path in paths
    ]


def _settings(before: Sequence[str], word: str) -> list[tuple[str, str]]:
    """Return the keys of the groups' choices on the line, or the values of the key at its end."""
    from cnnbench.config.groups import ALL_GROUPS, Groups
    from cnnbench.config.run_config import GROUPS

    groups = Groups(_config_dir(before))
    given = dict(part.partition("=")[::2] for part in before if "=" in part)
    chosen = {group: given.get(group) or groups.default(group) for group in GROUPS}
    key, equals, value = word.partition("=")
    if equals:
        # Of a sweep's values the last one is completed.
        head = word[: len(word) - len(value.rpartition(",")[2])]
        return [(head + text, about) for text, about in _values(groups, chosen, key)]
    comments = groups.comments(chosen)
    names = [name for name in _keys(groups, chosen) if not name.endswith(".name")]
    if "." in word:
        return [(f"{name}=", comments.get(name, "")) for name in names if "." in name]
    nodes = sorted({name.partition(".")[0] + "." for name in names if "." in name})
    found = [(f"{group}=", comments.get(f"{group}.name", "")) for group in ALL_GROUPS]
    found += [(f"{name}=", comments.get(name, "")) for name in names if "." not in name]
    return found + [(node, "its keys") for node in nodes if word]


def _keys(groups: Any, chosen: dict[str, str]) -> list[str]:
    """Return the keys that a config has with these choices."""
    from cnnbench.config.run_config import all_keys

    own = {
        f"{group}.{name}" for group, choice in chosen.items() for name in groups.keys(group, choice)
    }
    return [
        name
        for name, facts in all_keys().items()
        if not facts.is_group
        and facts.role.name != "fallback"  # what a choice's file says, not a person
        and (not facts.is_argument or name in own)
    ]


def _values(groups: Any, chosen: dict[str, str], key: str) -> list[tuple[str, str]]:
    from cnnbench.config.groups import ALL_GROUPS
    from cnnbench.config.run_config import RunConfig, argument_type

    if key in ALL_GROUPS:
        return [(name, "") for name in groups.choices(key)]
    if key == "resume":
        return _runs("")
    group, _, name = key.rpartition(".")
    hints = typing.get_type_hints(RunConfig, include_extras=True)
    if group:
        node = typing.get_args(hints[group])[0] if group in hints else None
        hints = typing.get_type_hints(node, include_extras=True) if node else {}
    kind = hints.get(name)
    if kind is None and group in chosen:
        try:
            kind = argument_type(group, name, chosen[group])
        except KeyError:
            return []
    return [(text, "") for text in _names(kind)]


def _names(kind: Any) -> list[str]:
    """Return the values of a type that has few: of a Literal, and of bool."""
    if kind is bool:
        return ["true", "false"]
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return [str(part).lower() if isinstance(part, bool) else str(part) for part in parts]
    if origin is typing.Annotated:
        return _names(parts[0])
    if origin in (typing.Union, types.UnionType):
        return [name for part in parts for name in _names(part)]
    return []
