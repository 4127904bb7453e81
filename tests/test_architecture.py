"""The shape of the code, read from its source: floors, what loads torch, who may touch pickles."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cnnbench"
FILES = sorted(PACKAGE.rglob("*.py"))
# From the lowest to the highest. A file imports from lower floors and from its own room.
FLOORS = (
    ("errors", "notices", "seeds", "signals", "metrics", "version"),
    ("files", "registry", "device", "geometry", "user_code"),
    ("config", "data", "losses", "layers", "optim", "tracking", "rendering"),
    ("models", "engine"),
    ("runs",),
    ("training",),
    ("analysis",),
    ("sweeps",),
    ("api",),
    ("cli", "__init__"),
    ("__main__",),
)
LEVELS = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_TORCH = (
    "cnnbench",
    "cnnbench.__main__",
    "cnnbench.analysis.compare.formats",
    "cnnbench.analysis.results",
    "cnnbench.analysis.summary_text",
    "cnnbench.api",
    "cnnbench.config.command",
    "cnnbench.notices",
    "cnnbench.runs.resume",
    "cnnbench.analysis.evaluate.plots",
    "cnnbench.rendering.figures",
    "cnnbench.rendering.html",
    "cnnbench.analysis.compare.plots",
    "cnnbench.analysis.compare.records",
    "cnnbench.rendering.text",
    "cnnbench.analysis.compare.report",
    "cnnbench.analysis.compare.report_details",
    "cnnbench.analysis.compare.rows",
    "cnnbench.analysis.compare.tables",
    "cnnbench.analysis.compare.conclusion",
    "cnnbench.analysis.compare.defaults",
    "cnnbench.analysis.compare.self_check",
    "cnnbench.analysis.compare.verdicts",
    "cnnbench.analysis.compare.where",
    "cnnbench.cli.main",
    "cnnbench.config.compose",
    "cnnbench.config.run_config",
    "cnnbench.data",
    "cnnbench.data.manage",
    "cnnbench.errors",
    "cnnbench.files",
    "cnnbench.registry",
    "cnnbench.runs.columns",
    "cnnbench.runs.directory",
    "cnnbench.runs.predictions",
    "cnnbench.runs.provenance",
    "cnnbench.runs.prune",
    "cnnbench.runs.record",
    "cnnbench.config.schema",
    "cnnbench.seeds",
    "cnnbench.signals",
    "cnnbench.config.settings",
    "cnnbench.training.distributed",
    "cnnbench.training.stop",
    "cnnbench.analysis.compare.layers",
    "cnnbench.sweeps.ask",
    "cnnbench.sweeps.check",
    "cnnbench.sweeps.jobs",
    "cnnbench.sweeps.job",
    "cnnbench.sweeps.launchers.local",
    "cnnbench.sweeps.lease",
    "cnnbench.sweeps.progress",
    "cnnbench.sweeps.run",
    "cnnbench.sweeps.launch",
    "cnnbench.sweeps.search.run",
    *(f"cnnbench.cli.{path.stem}" for path in sorted((PACKAGE / "cli").glob("[a-z]*.py"))),
)
# Longer than the 400 lines that a file should have; these may only shrink.
# Every public function with its documentation, in one file; it grows with each new function alone.
LARGE: dict[str, int] = {"cnnbench.api": 1097}
HEAVY = ("torch", "torchvision", "tensorboard", "matplotlib", "sklearn", "scipy", "PIL")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}


def unit_of(module: str) -> str:
    """Return the file or package right below cnnbench."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(module: str) -> Iterator[str]:
    """Yield the modules of ours that a file imports anywhere, also for type checking alone."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in MODULES:
                    yield inner
                elif node.module in MODULES:
                    yield node.module


@cache
def imports() -> list[tuple[str, str]]:
    """Return each module of ours with each that it imports."""
    return [(module, target) for module in MODULES for target in imported(module)]


def test_every_room_has_its_floor() -> None:
    assert {unit_of(module) for module in MODULES} == LEVELS.keys()


def test_every_room_says_what_belongs_there_and_what_it_may_import() -> None:
    """What is here, what is elsewhere, and the floor's rule in words."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent in (PACKAGE, PACKAGE / "layers" / "cpu", PACKAGE / "data" / "readers"):
            continue
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert len(text.splitlines()) > 3, path
        assert re.search(r"\b(imports?|see no|belongs?)\b", text, re.IGNORECASE), path


def test_the_floors_are_those_of_the_contributors_page() -> None:
    rows = re.findall(
        r"^\| (\d+) \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE
    )
    found = {int(floor): set(re.findall(r"`(\w+)`", rooms)) for floor, rooms in rows}
    assert found == {
        number: {room for room in rooms if not room.startswith("__")}
        for number, rooms in enumerate(FLOORS, start=1)
        if rooms != ("__main__",)
    }


def test_nothing_imports_upwards_or_from_the_next_room() -> None:
    wrong = [
        f"{module} imports {target}"
        for module, target in imports()
        if unit_of(module) != unit_of(target) and LEVELS[unit_of(target)] >= LEVELS[unit_of(module)]
    ]
    assert not wrong


def test_no_cycle_of_files_at_import() -> None:
    """Imports inside functions may close a circle; those that run at import may not."""
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text())
        for function in [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]:
            function.body = []
        at_import = {
            alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        names = {n if n in MODULES else n.rpartition(".")[0] for n in at_import}
        graph[module] = {n for n in names if n in MODULES and n not in ("cnnbench", module)}
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_no_cycle_of_packages() -> None:
    graph: dict[str, set[str]] = {unit: set() for unit in LEVELS}
    for module, target in imports():
        if target != "cnnbench" and unit_of(module) != unit_of(target):
            graph[unit_of(module)].add(unit_of(target))
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_the_front_door_loads_no_torch() -> None:
    code = (
        "import importlib, sys\n"
        f"for name in {WITHOUT_TORCH}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = [heavy for heavy in {HEAVY} if heavy in sys.modules]\n"
        "    assert not loaded, (name, loaded)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("heavy", HEAVY[1:])
def test_heavy_packages_are_imported_where_they_are_used(heavy: str) -> None:
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert heavy not in [name.split(".")[0] for name in names], module


CONFIG = [f"cnnbench.config.{name}" for name in ("run_config", "settings", "compose")]


@pytest.mark.parametrize(
    "name", ["models", "engine", "layers", "data", "optim", "geometry", "tracking"]
)
def test_parts_never_see_a_config(name: str) -> None:
    for module, target in imports():
        if unit_of(module) == name:
            assert target not in CONFIG, module


def test_only_compose_imports_hydra() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"hydra", "omegaconf"} & {name.split(".")[0] for name in names}:
                assert module == "cnnbench.config.compose"


def test_only_checkpoint_reads_and_writes_torch_files_and_says_weights_only() -> None:
    found = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.fullmatch(
                r"torch\.(load|save)", ast.unparse(node)
            ):
                assert module == "cnnbench.runs.checkpoint", module
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
                assert not {"load", "save"} & {alias.name for alias in node.names}, module
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                found.append({k.arg: ast.unparse(k.value) for k in node.keywords})
    assert found
    assert all(keywords.get("weights_only") == "True" for keywords in found)


def test_nothing_evaluates_text_or_starts_a_shell() -> None:
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                # model=custom runs the one file that the user names on the command line.
                if (module, name) == ("cnnbench.user_code.run", "exec"):
                    continue
                assert name not in ("eval", "exec", "os.system", "pickle.load", "pickle.loads"), (
                    module
                )
                assert "shell" not in {k.arg for k in node.keywords}, module


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*")), ids=lambda p: p.name)
def test_conf_holds_plain_yaml_that_names_no_code(path: Path) -> None:
    if path.is_dir():
        return
    assert path.suffix == ".yaml"
    text = path.read_text()
    assert not re.search(r"^\s*_target_", text, re.MULTILINE)
    assert "!!" not in text
    assert isinstance(yaml.safe_load(text), dict)


def test_files_and_functions_stay_small() -> None:
    for module, path in MODULES.items():
        text = path.read_text()
        assert len(text.splitlines()) <= LARGE.get(module, 400), module
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                words = len((ast.get_docstring(node, clean=False) or "").splitlines())
                length = (node.end_lineno or 0) - node.lineno + 1 - words
                assert length <= 60, f"{module}.{node.name} has {length} lines"
        assert "from __future__ import annotations" in text or not ast.parse(text).body[1:], module


def test_no_file_names_the_machine_it_was_written_on() -> None:
    machine = "/" + "work/"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else map(str, FILES)
    for path in (ROOT / name for name in names):
        if path.suffix in (".py", ".yaml", ".toml", ".md", ".sh", "") and path.is_file():
            assert machine not in path.read_text(errors="replace"), path


def test_dependencies_have_floors() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in [*project["dependencies"], *extras]:
        assert re.match(r"[a-z0-9-]+(\[[a-z,]+\])?(>=|==)\d", line), line
    found = re.findall(r"^([a-z-]+\d?)>=([\d.]+)", "\n".join(project["dependencies"]), re.MULTILINE)
    floor = {name: tuple(map(int, version.split("."))) for name, version in found}
    assert floor["torch"] >= (2, 10)
    assert floor["hydra-core"] >= (1, 3, 8)
    assert floor["tensorboard"] >= (2, 21)


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name in extras.keys() - {"test"} for line in extras[name]),
    ]
    declared = {re.split(r"[<>=\[]", line)[0] for line in lines}
    # Import name to distribution; Hydra brings OmegaConf.
    distributions = {
        "hydra": "hydra-core",
        "omegaconf": "hydra-core",
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "PIL": "pillow",
    }
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.split(".")[0] for name in names} - {"cnnbench"}:
                if top not in sys.stdlib_module_names:
                    assert distributions.get(top, top) in declared, (module, top)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
    ],
    ids=" ".join,
)
def test_tools_find_nothing(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
