"""The wheel: built, installed where only the dependencies are, and run from elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import cnnbench

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    call = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    subprocess.run([*call, str(ROOT)], check=True, capture_output=True)
    [path] = out.iterdir()
    return path


def test_the_wheel_holds_the_code_the_yaml_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"cnnbench-{cnnbench.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {f"cnnbench/{p.relative_to(ROOT / 'cnnbench')}" for p in ROOT.glob("cnnbench/**/*.py")}
    page = {f"cnnbench/analysis/compare/page/report.{kind}" for kind in ("html.j2", "css", "js")}
    conf = {f"cnnbench/conf/{p.relative_to(ROOT / 'conf')}" for p in ROOT.glob("conf/**/*.yaml")}
    results = {f"cnnbench/{p.relative_to(ROOT)}" for p in ROOT.glob("results/**/*") if p.is_file()}
    assert code | page | conf | results <= names
    others = {name for name in names - code - page - conf - results if ".dist-info/" not in name}
    assert others <= {"cnnbench/py.typed"}


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with the wheel, which sees our dependencies."""
    home = tmp_path_factory.mktemp("environment")
    make = [sys.executable, "-m", "venv", "--without-pip", str(home)]
    subprocess.run(make, check=True, capture_output=True)
    python = home / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True, capture_output=True)
    [site] = home.glob("lib/python*/site-packages")
    # A folder named here is searched, but its own .pth files, our checkout's among them, are not.
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(ours)))
    return python


def test_the_installed_command_trains_from_anywhere(python: Path, tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    where = subprocess.run(
        [python, "-c", "from cnnbench.config.groups import conf_dir; print(conf_dir())"],
        cwd="/",
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    [site] = python.parents[1].glob("lib/python*/site-packages")
    assert Path(where.stdout.strip()) == site / "cnnbench" / "conf"
    done = subprocess.run(
        [
            *(python.with_name("cnnbench"), "train", "num_epochs=1", "data.limit=64"),
            *("model=basic_cnn", f"output_root={tmp_path}", "device=cpu"),
        ],
        cwd="/",
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run = Path(done.stdout.splitlines()[-1])
    assert run.is_relative_to(tmp_path)
    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "done"
    assert info["data"]["num_train"] == 64
