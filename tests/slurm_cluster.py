"""A real SLURM on this machine: munged, slurmctld and two slurmd, in a folder of their own, on free ports.

Starts and ends exactly its own processes; touches no configuration of the system. Wants root, slurm-wlm and munge.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
SBIN = "/usr/sbin:/usr/local/sbin"


def missing() -> list[str]:
    """Programs that are not here, and root if we are not."""
    path = f"{os.environ['PATH']}:{SBIN}"
    return [p for p in PROGRAMS if not shutil.which(p, path=path)] + ([] if os.geteuid() == 0 else ["root"])


class Cluster:
    """Two nodes of `cpus` cores and a gpu each. `environment()` is what a user's shell there has."""

    nodes = ("n1", "n2")

    def __init__(self, folder: Path, cpus: int = 8, memory: int = 64000):
        self.folder, self.cpus, self.memory = folder, cpus, memory
        self.processes: dict[str, subprocess.Popen] = {}
        folder.mkdir(parents=True)
        self._munge = folder / "munge"
        self._write()

    def _write(self) -> None:
        self._munge.mkdir(mode=0o755)
        key = self._munge / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        ports = free_ports(2 + len(self.nodes))
        host = socket.gethostname().split(".")[0]
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={ports[0]}",
            f"SlurmUser={getpass.getuser()}",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            f"AuthInfo=socket={self._munge}/socket,cred_expire=2",  # a job of a failed node waits that long
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool.%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/slurmd.%n.pid",
            f"SlurmctldLogFile={self.folder}/slurmctld.log",
            f"SlurmdLogFile={self.folder}/slurmd.%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core_Memory",
            "AccountingStorageType=accounting_storage/none",
            "JobAcctGatherType=jobacct_gather/linux",
            "JobAcctGatherFrequency=2",
            "SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,bf_interval=1",
            "SlurmctldTimeout=60",
            "SlurmdTimeout=60",
            "MinJobAge=300",
            "KillWait=5",
            "ReturnToService=2",
            "SlurmdParameters=config_overrides",  # more cores than this machine may have: rules ask for 8
            "MpiDefault=none",
            "PlugStackConfig=/dev/null",
            "GresTypes=gpu",
        ]
        for node, port in zip(self.nodes, ports[2:], strict=True):
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} "
                f"RealMemory={self.memory} Gres=gpu:1 State=UNKNOWN"
            )
        lines.append(f"PartitionName=all Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP")
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        gres = "".join(f"NodeName={node} Name=gpu File={self._device(k)}\n" for k, node in enumerate(self.nodes))
        (self.folder / "gres.conf").write_text(gres)
        (self.folder / "state").mkdir()

    @staticmethod
    def _device(k: int) -> str:
        return ("/dev/null", "/dev/zero")[k]  # a gpu is a device file that exists

    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:{SBIN}"}

    def _popen(self, name: str, *command: str) -> None:
        log = open(self.folder / f"{name}.out", "ab")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SNAKEMAKE_"))} | self.environment()
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)

    def start(self) -> None:
        m = self._munge
        files = [f"--{k}={m}/{k.split('-')[0]}" for k in ("socket", "pid-file", "log-file", "seed-file")]
        self._popen("munged", "munged", "--foreground", "--force", f"--key-file={m}/key", *files)
        self._wait(lambda: (m / "socket").exists(), "munged")
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        self._wait(lambda: self.call("sinfo", "-h", "-o", "%T %D").stdout.split() == ["idle", str(len(self.nodes))], "the nodes")

    def start_controller(self) -> None:
        self._popen("slurmctld", "slurmctld", "-D")
        self._wait(lambda: "UP" in self.call("scontrol", "ping").stdout, "slurmctld")

    def start_node(self, node: str) -> None:
        self._popen(node, "slurmd", "-D", "-N", node)

    def end(self, name: str, how: int = signal.SIGTERM) -> None:
        """End one of our processes: "slurmctld" or a node's name."""
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.call("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full")
            self.call("scancel", "--user", getpass.getuser())
            self._wait(lambda: not self.jobs(), "the jobs to end", 20)
        for name in (*self.nodes, "slurmctld", "munged"):
            if name in self.processes:
                self.end(name)

    def call(self, *command: str) -> subprocess.CompletedProcess:
        env = {**os.environ, **self.environment()}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    def jobs(self) -> list[tuple[str, str, str]]:
        """Jobs that have not ended: id, state, comment (Snakemake puts the rule there)."""
        lines = self.call("squeue", "-h", "-t", "PD,R,CG,S", "-o", "%i|%T|%k").stdout.splitlines()
        return [tuple(line.split("|", 2)) for line in lines]

    def show(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says: {"JobState": "RUNNING", ...}; of an array of words the last."""
        words = self.call("scontrol", "show", "job", "--oneliner", job).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def next_job(self) -> int:
        """The number that the next job gets."""
        config = self.call("scontrol", "show", "config").stdout
        return int(config.split("NEXT_JOB_ID")[1].split("=")[1].split()[0])

    def _wait(self, ready, what: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                logs = "\n".join(f"== {f.name}\n{f.read_text()[-1500:]}" for f in self.folder.glob("*.log"))
                raise TimeoutError(f"waited {seconds} s for {what}\n{logs}")
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()
