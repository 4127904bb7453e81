"""A real Slurm on one machine, from Debian's ``slurm-wlm`` and ``munge``, without systemd.

All that it reads and writes is in a temporary folder, its ports are free ones of the loopback
address, and nothing of it is left when it is closed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
_CONFIG = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/socket/munge
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MaxArraySize=4
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class OneMachineSlurm:
    """Started when entered.

    Attributes:
        config: for the variable ``SLURM_CONF``.
    """

    @staticmethod
    def missing() -> str | None:
        """Say why there can be none here; None where there can."""
        os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin"
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            return "only root can start Slurm's daemons"
        if absent := [name for name in _PROGRAMS if shutil.which(name) is None]:
            return f"apt install slurm-wlm munge: {', '.join(absent)} missing"
        return None

    def __enter__(self) -> OneMachineSlurm:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)
        self.config = self.folder / "slurm.conf"
        for name in ("state", "spool", "socket", "munge"):
            (self.folder / name).mkdir()
        (self.folder / "munge" / "munge.key").write_bytes(os.urandom(1024))
        for name in ("munge", "socket", "munge/munge.key"):
            shutil.chown(self.folder / name, "munge", "munge")
        (self.folder / "munge").chmod(0o700)
        (self.folder / "munge" / "munge.key").chmod(0o400)
        (self.folder / "socket").chmod(0o755)
        with socket.socket() as one, socket.socket() as two:
            for probe in (one, two):
                probe.bind(("127.0.0.1", 0))
            ports = [probe.getsockname()[1] for probe in (one, two)]
        self.config.write_text(
            _CONFIG.format(
                host=socket.gethostname().partition(".")[0],
                folder=self.folder,
                ports=ports,
                cores=os.cpu_count(),
            )
        )
        log = (self.folder / "daemons.log").open("ab")
        munge = [
            "munged", "--foreground", f"--key-file={self.folder}/munge/munge.key",
            f"--socket={self.folder}/socket/munge", f"--pid-file={self.folder}/munge/pid",
            f"--log-file={self.folder}/munge/log", f"--seed-file={self.folder}/munge/seed",
        ]  # fmt: skip
        environment = {**os.environ, "SLURM_CONF": str(self.config)}
        self.daemons = [
            subprocess.Popen(munge, user="munge", group="munge", stdout=log, stderr=log)
        ]
        self._wait(lambda: (self.folder / "socket" / "munge").exists())
        for words in (["slurmctld", "-D"], ["slurmd", "-D"]):
            words += ["-f", str(self.config)]
            self.daemons.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
        log.close()
        self._wait(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"))
        return self

    def __exit__(self, *exc: object) -> None:
        self.ask("scancel", "--user=root")
        until = time.monotonic() + 20
        while self.ask("squeue", "-h", "-o", "%i").split() and time.monotonic() < until:
            time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, *words: str) -> str:
        """Return what a command of Slurm prints; nothing where it fails."""
        environment = {**os.environ, "SLURM_CONF": str(self.config)}
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout

    def logs(self) -> str:
        """Return the ends of what the daemons wrote."""
        texts = [f"{file.name}: {file.read_text()[-3000:]}" for file in self.folder.glob("*.log")]
        return "\n".join(texts)

    def _wait(self, condition) -> None:
        until = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < until, self.logs()
            time.sleep(0.1)
