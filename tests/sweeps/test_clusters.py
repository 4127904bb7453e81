"""Sweeps on several machines: Slurm through submitit, and Ray."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_one_machine import OneMachineSlurm
from tiny import TINY, differences, info
from tiny_plans import SOFTMAX, plan

import cnnbench
from cnnbench.cli.main import run as cli
from cnnbench.config.compose import Composer
from cnnbench.config.launcher import LauncherConfig, split_launcher
from cnnbench.errors import UsageError
from cnnbench.sweeps import launchers
from cnnbench.sweeps.launchers import Capacity, slurm
from cnnbench.sweeps.lease import claim, keep_queued, read_lease
from cnnbench.sweeps.slots import choose_cluster_slots

GIB = 1 << 30
# Some seconds, so that it can be stopped in its middle.
LONG = (*TINY, "model=softmax", "optimizer=sgd", "data.native_size=8", "num_epochs=60")
LONG = (*LONG, "data.num_train=2000", "checkpoint.keep_last=2")
THREAD = "device.num_threads=1"


def cluster_config(name: str, *words: str) -> LauncherConfig:
    read = [f"hydra/launcher={name}", *(f"hydra.launcher.{word}" for word in words)]
    return split_launcher(Composer().parse(read))[1]


def runs_of(root: Path) -> list[Path]:
    jobs = json.loads((root / "sweep.json").read_text())["jobs"]
    return [root / job["run"] for job in jobs]


def one_after_another(root: Path, *words: str) -> list[Path]:
    """Return the runs of the same sweep without a cluster."""
    argv = [*words, f"output_root={root}", "hydra.launcher.slots=1"]
    found, num_failed = cnnbench.train_sweep(argv)
    assert num_failed == 0
    return runs_of(found)


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


def lines(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


class Local:
    """submitit's executor on this machine, and what it has running in place of a queue."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []
        self.sizes: list[int] = []

    def make(self, folder: Path) -> Local:
        import submitit

        self.executor = submitit.LocalExecutor(folder, max_num_timeout=5)
        self.executor.update_parameters(timeout_min=60)
        return self

    def submit_array(self, commands: list[Any]) -> list[Any]:
        self.sizes.append(len(commands))
        new = self.executor.submit_array(commands)
        self.jobs += new
        return new

    def interrupt(self, job: Any) -> None:
        """Signal a job's process as Slurm does shortly before its time is over."""
        controller = job._process.pid
        for child in Path(f"/proc/{controller}/task/{controller}/children").read_text().split():
            os.kill(int(child), signal.SIGUSR2)

    def queue(self) -> set[str]:
        return {str(job.job_id) for job in self.jobs if not job.done()}


@pytest.mark.skipif(sys.platform != "linux", reason="submitit's signals")
def test_jobs_of_submitit_are_resumed_at_their_time_limit_and_equal_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, is_interrupted = Local(), []

    def queue() -> set[str]:
        [first, *_] = sorted((tmp_path / "a").glob("sweeps/*/jobs/*seed=0*"))
        if not is_interrupted and lines(first.parents[1] / first.name) > 1:
            is_interrupted.append(first)
            local.interrupt(local.jobs[0])
        return local.queue()

    def create(config: LauncherConfig) -> slurm.SlurmLauncher:
        return slurm.SlurmLauncher(config, 3, local.make, queue)

    monkeypatch.setattr(slurm, "create", create)
    monkeypatch.setattr(slurm, "_LOOK_SECONDS", 0.05)
    words = [*LONG, THREAD, "seed=0,1", "num_epochs=6"]
    argv = [*words, f"output_root={tmp_path / 'a'}", "hydra/launcher=slurm"]
    root, num_failed = cnnbench.train_sweep(argv)
    assert num_failed == 0
    assert local.sizes == [2]
    [job] = is_interrupted
    assert "resumed after epoch" in (job / "log.txt").read_text()
    assert [len(info(run)["provenance"]["processes"]) for run in runs_of(root)] == [2, 1]
    # All of it lies under the sweep.
    assert {path.name for path in root.iterdir()} >= {"jobs", "slurm", "sweep.json"}
    alone = one_after_another(tmp_path / "b", *words)
    for ours, theirs in zip(runs_of(root), alone, strict=True):
        assert differences(ours, theirs) == []


def test_arrays_are_no_larger_than_the_cluster_takes_and_nobody_is_lost(tmp_path: Path) -> None:
    class Executor:
        def __init__(self) -> None:
            self.count = 0
            self.sizes: list[int] = []

        def submit_array(self, commands: list[slurm.JobCommand]) -> list[Any]:
            self.sizes.append(len(commands))
            self.count += 1
            made = type("Job", (), {})
            found = []
            for index, command in enumerate(commands):
                assert command.command == ["python", "x"]
                job = made()
                job.job_id = f"{self.count}_{index}"
                found.append(job)
            return found

    executor = Executor()
    queue: set[str] = {f"{array}_{index}" for array in (1, 2, 3) for index in range(4)}
    launcher = slurm.SlurmLauncher(
        cluster_config("slurm"), 4, lambda folder: executor, lambda: queue
    )
    for number in range(10):
        directory = tmp_path / "jobs" / str(number)
        directory.mkdir(parents=True)
        launcher.submit(launchers.Launch(str(number), ("python", "x"), directory))
    assert launcher.ended(0.0) == {}
    assert executor.sizes == [4, 4, 2]
    queue -= {"1_1", "3_0"}
    launcher._looked = 0.0
    assert launcher.ended(0.0) == {"1": launchers.GONE, "8": launchers.GONE}
    # What was not submitted yet when the sweep is stopped never will be.
    launcher.submit(launchers.Launch("late", ("python", "x"), directory))
    launcher.signal(signal.SIGTERM)
    assert launcher.ended(0.0) == {"late": launchers.GONE}
    assert executor.sizes == [4, 4, 2]


def test_a_job_that_waits_in_a_queue_is_alive_and_begun_only_once(tmp_path: Path) -> None:
    assert claim(tmp_path, 1)
    lease = read_lease(tmp_path)
    assert lease is not None
    assert lease.is_queued
    keep_queued(tmp_path, 1)
    beaten = read_lease(tmp_path)
    assert beaten is not None
    assert (beaten.heartbeat, beaten.is_queued) == (lease.heartbeat + 1, True)
    # The heartbeat of one that runs is its own.
    keep_queued(tmp_path, 2)
    running = json.loads((tmp_path / "lease-1.json").read_text())
    running["owner"] = {"machine": "another", "pid": 1, "started": "1"}
    (tmp_path / "lease-1.json").write_text(json.dumps(running))
    keep_queued(tmp_path, 1)
    assert read_lease(tmp_path) == type(lease)(1, running["owner"], running["heartbeat"])


def test_what_a_cluster_started_twice_does_not_train_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    words = [*TINY, "seed=0,1", "num_epochs=1", f"output_root={tmp_path}"]
    root, _ = cnnbench.train_sweep(words)
    [run, _] = runs_of(root)
    [file] = (root / "jobs" / run.name).glob("lease-*.json")
    lease = json.loads(file.read_text())
    elsewhere = {"machine": "another", "pid": 1, "started": "1"}
    file.write_text(json.dumps({**lease, "owner": elsewhere, "code": None}))
    shutil.rmtree(run)
    capsys.readouterr()
    try:
        from cnnbench.sweeps.job import main

        assert main([str(root), run.name, "1"]) == 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert "another process began it" in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize(
    ("capacity", "wanted", "macs", "number", "threads"),
    [
        (Capacity(64, 16, 0, 512 * GIB), "auto", 10**6, 64, 1),
        (Capacity(64, 16, 0, 512 * GIB), "auto", 10**9, 8, 8),
        (Capacity(64, 4, 0, 512 * GIB), "auto", 10**9, 16, 4),
        (Capacity(64, 16, 0, 512 * GIB), 100, 10**6, 100, 1),
        (Capacity(64, 16, 0, GIB), "auto", 10**6, 3, 1),
        (Capacity(), "auto", 10**9, 100, 8),
        (Capacity(), 7, 10**6, 7, 1),
    ],
)
def test_the_rule_for_clusters(
    capacity: Capacity, wanted: Any, macs: int, number: int, threads: int
) -> None:
    found = choose_cluster_slots([plan(macs)] * 200, wanted, capacity)
    assert (found.number, found.num_threads, found.num_gpus) == (number, threads, 0)
    assert found.environment(0) == {"OMP_NUM_THREADS": str(threads)}


def test_gpus_of_clusters() -> None:
    capacity = Capacity(64, 16, 4, 512 * GIB)
    found = choose_cluster_slots([plan(device="cuda")] * 20, "auto", capacity)
    assert (found.number, found.num_gpus) == (4, 1)
    assert "CUDA_VISIBLE_DEVICES" not in found.environment(0)
    assert choose_cluster_slots([plan()] * 20, "auto", capacity, 2).number == 2


@pytest.mark.parametrize(
    ("capacity", "wanted", "gpus", "changes", "message"),
    [
        (Capacity(8, 8, 0, GIB), 9, None, {}, r"slots=9: .*of memory and the cluster has 1,07"),
        (Capacity(8, 8, 0, GIB), "auto", 1, {}, r"launcher\.gpus=1: the cluster has 0 GPUs"),
        (Capacity(job_bytes=10**8), 1, None, {}, r"memory_gb=0\.1: the largest job takes at"),
        (Capacity(), 1, None, {"budget.seconds": 3}, r"budget\.seconds: .*hydra/launcher=local"),
        (Capacity(8, 2, 0, GIB), 1, None, {"device.num_threads": 4}, r"num_threads=4: no machine"),
    ],
)
def test_what_no_cluster_can_give(
    capacity: Capacity, wanted: Any, gpus: int | None, changes: dict[str, Any], message: str
) -> None:
    import dataclasses

    job = plan()
    for key, value in changes.items():
        part, name = key.split(".")
        changed = dataclasses.replace(getattr(job.config, part), **{name: value})
        job = dataclasses.replace(job, config=dataclasses.replace(job.config, **{part: changed}))
    with pytest.raises(UsageError, match=message):
        choose_cluster_slots([job] * 20, wanted, capacity, gpus)


@pytest.mark.parametrize(
    ("scontrol", "message"),
    [
        (None, "this machine has no sbatch"),
        ("echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1",
         "cannot be reached (slurm_load_ctl_conf error: Unable to contact"),
    ],
)  # fmt: skip
def test_a_slurm_that_is_not_there(
    scontrol: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("sbatch", "exit 1"), ("scontrol", scontrol)) if scontrol else ():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    argv = ["train", "-m", *SOFTMAX, "seed=0,1", f"output_root={tmp_path / 'out'}"]
    assert cli([*argv, "hydra/launcher=slurm"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["ray", "slurm"])
def test_an_engine_that_is_not_installed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launchers.importlib.util, "find_spec", lambda package: None)
    assert cli(["train", "-m", *SOFTMAX, "seed=0,1", f"hydra/launcher={name}"]) == 2
    assert f"pip install 'cnnbench[{name}]'" in capsys.readouterr().err


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.parametrize("address", ["auto", "nonsense", "127.0.0.1:{port}"])
def test_a_ray_cluster_that_is_not_there(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    argv = ["train", "-m", *SOFTMAX, "seed=0,1", f"output_root={tmp_path / 'out'}"]
    address = address.format(port=free_port())
    argv += ["hydra/launcher=ray", f"hydra.launcher.address={address}"]
    done = command(*argv, seconds=60)
    assert done.returncode == 2, done.stderr
    assert f"hydra.launcher.address={address}: no Ray cluster can be reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def command(*argv: str, seconds: float) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "cnnbench", *argv]
    return subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command; what still runs after the test is ended."""
    processes = []

    def start_one(*argv: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "cnnbench", "train", "-m", *argv]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(words, text=True, **pipes))
        return processes[-1]

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_two_nodes_of_ray_and_the_death_of_one(tmp_path: Path, start: Callable[..., Any]) -> None:
    """Two machines in one: nodes of a cluster on the loopback address."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # Ray takes 127.0.0.1 for the machine's own address.
    here = {"node_ip_address": "127.0.0.2", "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**here, "num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2") for _ in range(2)]
        cluster.wait_for_nodes()
        words = [*LONG, THREAD, "seed=range(0,4)", "num_epochs=60"]
        ours = ["hydra/launcher=ray", f"hydra.launcher.address={cluster.address}"]
        process = start(*words, *ours, f"output_root={tmp_path / 'a'}", "sweep.name=s")
        jobs = tmp_path / "a" / "sweeps" / "s" / "jobs"

        def places() -> dict[str, Path]:
            found = {}
            for log in jobs.glob("*/log.txt"):
                for node in re.findall(r"on Ray's node (\w+)", log.read_text()):
                    found[node] = log.parent
            return found

        wait_for(lambda: process.poll() is not None or len(places()) == 2, 300)
        assert len(places()) == 2, process.poll()
        dead = places()[nodes[0].node_id]
        wait_for((jobs.parent / dead.name / "checkpoints" / "manifest.json").exists)
        killed = time.monotonic()
        cluster.remove_node(nodes[0], allow_graceful=False)
        wait_for(lambda: list(dead.glob("lease-2.json")), 60)
        print(f"taken over {time.monotonic() - killed:.1f} s after the node's death")
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, (out, err)
        assert "its machine or process was lost; it is started again (1 of 3)" in out
        log = (dead / "log.txt").read_text()
        assert set(re.findall(r"on Ray's node (\w+)", log)) == {node.node_id for node in nodes}
        assert "resumed after epoch" in log
    finally:
        cluster.shutdown()
    alone = one_after_another(tmp_path / "b", *words)
    for found, expected in zip(runs_of(jobs.parent), alone, strict=True):
        assert info(found)["status"] == "done"
        assert differences(found, expected) == []


@pytest.mark.slow
def test_ctrl_c_stops_tasks_of_ray_with_their_state_saved(
    tmp_path: Path, start: Callable[..., Any]
) -> None:
    pytest.importorskip("ray")
    words = [*LONG, "seed=range(0,3)", "num_epochs=100000", f"output_root={tmp_path}"]
    ours = ["hydra/launcher=ray", "hydra.launcher.address=local", "hydra.launcher.slots=3"]
    process = start(*words, *ours, "sweep.name=s")
    root = tmp_path / "sweeps" / "s"
    wait_for(lambda: process.poll() is not None or list(root.glob("*/metrics.jsonl")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130, (out, err)
    assert "the same command resumes it" in err
    assert "failed" not in err
    statuses = [info(file.parent)["status"] for file in root.glob("*/run.json")]
    assert statuses
    assert set(statuses) == {"interrupted"}


@pytest.fixture
def real_slurm(tmp_path: Path) -> Iterator[OneMachineSlurm]:
    """A Slurm of its own, with all it needs in a temporary folder."""
    if (why := OneMachineSlurm.missing()) is not None:
        pytest.skip(why)
    with OneMachineSlurm() as cluster:
        yield cluster


@pytest.mark.slow
def test_a_real_slurm_requeues_at_the_time_limit_and_ends_with_the_same_bits(
    tmp_path: Path,
    real_slurm: OneMachineSlurm,
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[..., Any],
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(real_slurm.config))
    # Longer than the half minute after which a job of two minutes is told to save.
    words = [*LONG, THREAD, "seed=0,1", "num_epochs=300,2"]
    ours = ["hydra/launcher=slurm", "hydra.launcher.minutes=2", "hydra.launcher.slots=4"]
    process = start(*words, *ours, f"output_root={tmp_path / 'a'}", "sweep.name=s")
    jobs = tmp_path / "a" / "sweeps" / "s" / "jobs"
    until, requeued = time.monotonic() + 900, set()
    while process.poll() is None:
        assert time.monotonic() < until, real_slurm.logs()
        # Slurm holds what was requeued for two minutes.
        for job in real_slurm.ask("squeue", "-h", "-r", "-t", "PENDING", "-o", "%i %r").split("\n"):
            if job.endswith("BeginTime"):
                requeued.add(job.split()[0])
                real_slurm.ask("scontrol", "update", f"JobId={job.split()[0]}", "StartTime=now")
        time.sleep(1)
    out, err = process.communicate()
    assert process.returncode == 0, (out, err, real_slurm.logs())
    assert requeued
    runs = runs_of(jobs.parent)
    assert [info(run)["status"] for run in runs] == ["done"] * 4
    logs = [(jobs / run.name / "log.txt").read_text() for run in runs]
    assert any("resumed after epoch" in log for log in logs)
    assert len(set(re.findall(r"job (\d+) on", "".join(logs)))) == 4
    alone = one_after_another(tmp_path / "b", *words)
    for found, expected in zip(runs, alone, strict=True):
        assert differences(found, expected) == []


@pytest.mark.slow
def test_a_real_slurm_cancels_on_ctrl_c_and_starts_again_what_was_killed(
    tmp_path: Path,
    real_slurm: OneMachineSlurm,
    monkeypatch: pytest.MonkeyPatch,
    start: Callable[..., Any],
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(real_slurm.config))
    words = [*LONG, THREAD, "seed=range(0,4)", "num_epochs=100000", f"output_root={tmp_path}"]
    process = start(*words, "sweep.name=s", "hydra/launcher=slurm")
    root = tmp_path / "sweeps" / "s"
    [first, *_] = wait_for(lambda: list(root.glob("*/metrics.jsonl")))
    lease = read_lease(root / "jobs" / first.parent.name)
    assert lease is not None
    os.kill(lease.owner["pid"], signal.SIGKILL)
    wait_for(lambda: (root / "jobs" / first.parent.name / "lease-2.json").exists(), 60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 130, (out, err)
    assert "it is started again (1 of 3)" in out
    statuses = [info(file.parent)["status"] for file in root.glob("*/run.json")]
    assert set(statuses) <= {"interrupted", "running"}
    assert real_slurm.ask("squeue", "-h", "-o", "%i").split() == []
