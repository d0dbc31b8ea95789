"""A real SLURM on this machine: munged, slurmctld and a slurmd a node, in a folder of their own, on free ports.

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
ACCOUNTING = ("slurmdbd", "sacct", "sacctmgr", "mariadbd")
SYSTEM_TABLES = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
SBIN = "/usr/sbin:/usr/local/sbin"
DEVICES = ("/dev/null", "/dev/zero")  # a gpu is a device file that exists


def missing(accounting: bool = False) -> list[str]:
    """Programs that are not here, and root if we are not."""
    path = f"{os.environ['PATH']}:{SBIN}"
    wanted = PROGRAMS + (ACCOUNTING if accounting else ())
    return [p for p in wanted if not shutil.which(p, path=path)] + ([] if os.geteuid() == 0 else ["root"])


class Cluster:
    """Two nodes of `cpus` cores and two gpus each. `environment()` is what a user's shell there has.

    Jobs of the partition `urgent` end those of others. A third node, in a partition of its own, can be started on which a
    folder is not to be seen. With accounting there is also a slurmdbd over a MariaDB of its own; only users of one account,
    `lab`, may submit.
    """

    nodes = ("n1", "n2")
    away = "n3"
    account = "lab"

    def __init__(self, folder: Path, cpus: int = 16, memory: int = 64000, accounting: bool = False):
        self.folder, self.cpus, self.memory, self.accounting = folder, cpus, memory, accounting
        self.processes: dict[str, subprocess.Popen] = {}
        folder.mkdir(parents=True)
        self._munge = folder / "munge"
        self._write()

    def _write(self) -> None:
        self._munge.mkdir(mode=0o755)
        key = self._munge / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        ports = free_ports(1 + len(self.nodes) + 1 + 1)
        host = socket.gethostname().split(".")[0]
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={ports[0]}",
            f"SlurmUser={getpass.getuser()}",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            f"AuthInfo=socket={self._munge}/socket",
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
            *self._storage(ports.pop(), host),
            "JobAcctGatherType=jobacct_gather/linux",
            "JobAcctGatherFrequency=2",
            "SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,bf_interval=1",
            "SlurmctldTimeout=60",
            "SlurmdTimeout=60",
            "MinJobAge=7200",
            "KillWait=5",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=CANCEL",
            "ReturnToService=2",
            "SlurmdParameters=config_overrides",  # more cores than this machine may have: rules ask for 8
            "MpiDefault=none",
            "PlugStackConfig=/dev/null",
            "GresTypes=gpu",
        ]
        for node, port in zip((*self.nodes, self.away), ports[1:], strict=True):
            lines.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} "
                f"RealMemory={self.memory} Gres=gpu:2 State=UNKNOWN"
            )
        lines.append(f"PartitionName=all Nodes={','.join(self.nodes)} Default=YES MaxTime=INFINITE State=UP")
        lines.append(f"PartitionName=urgent Nodes={','.join(self.nodes)} PriorityTier=2 MaxTime=INFINITE State=UP")
        lines.append(f"PartitionName=away Nodes={self.away} MaxTime=INFINITE State=UP")
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        gpus = [f"NodeName={node} Name=gpu File={device}\n" for node in (*self.nodes, self.away) for device in DEVICES]
        (self.folder / "gres.conf").write_text("".join(gpus))
        (self.folder / "state").mkdir()

    def _storage(self, port: int, host: str) -> list[str]:
        """Where slurmctld keeps its accounts; with accounting also writes slurmdbd.conf."""
        if not self.accounting:
            return ["AccountingStorageType=accounting_storage/none"]
        lines = [
            "AuthType=auth/munge",
            f"AuthInfo=socket={self._munge}/socket",
            f"DbdHost={host}",
            "DbdAddr=127.0.0.1",
            f"DbdPort={port}",
            f"SlurmUser={getpass.getuser()}",
            f"PidFile={self.folder}/slurmdbd.pid",
            f"LogFile={self.folder}/slurmdbd.log",
            "StorageType=accounting_storage/mysql",
            "StorageHost=localhost",  # by the socket that MYSQL_UNIX_PORT names, as this very user, without a password
            f"StorageUser={getpass.getuser()}",
            "StorageLoc=slurm",
        ]
        (self.folder / "slurmdbd.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "slurmdbd.conf").chmod(0o600)
        kind = ["AccountingStorageType=accounting_storage/slurmdbd", "AccountingStorageEnforce=associations"]
        place = ["AccountingStorageHost=127.0.0.1", f"AccountingStoragePort={port}"]
        return [*kind, *place, f"AccountingStoragePass={self._munge}/socket"]  # munge's socket goes by that name there

    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:{SBIN}"}

    def _popen(self, name: str, *command: str) -> None:
        log = open(self.folder / f"{name}.out", "ab")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SNAKEMAKE_"))} | self.environment()
        env["MYSQL_UNIX_PORT"] = str(self.folder / "mariadb.socket")
        self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)

    def start(self) -> None:
        m = self._munge
        files = [f"--{k}={m}/{k.split('-')[0]}" for k in ("socket", "pid-file", "log-file", "seed-file")]
        self._popen("munged", "munged", "--foreground", "--force", f"--key-file={m}/key", *files)
        self._wait(lambda: (m / "socket").exists(), "munged")
        if self.accounting:
            self._start_accounts()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        self._wait(lambda: self._idle("all") == len(self.nodes), "the nodes")

    def _start_accounts(self) -> None:
        """MariaDB without a port, slurmdbd, and one account with this user in it."""
        data, socket_ = self.folder / "mariadb", self.folder / "mariadb.socket"
        small = ["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0"]
        user = getpass.getuser()
        options = ["--no-defaults", f"--user={user}", f"--datadir={data}", *small]
        data.mkdir()
        tables = "".join(f"{Path('/usr/share/mysql', name).read_text()}\n" for name in SYSTEM_TABLES)
        made = self.call("mariadbd", *options, "--bootstrap", given=f"CREATE DATABASE mysql;\nUSE mysql;\n{tables}")
        assert made.returncode == 0, made.stdout + made.stderr
        own = [f"--socket={socket_}", f"--pid-file={self.folder}/mariadb.pid", "--skip-networking"]
        self._popen("mariadbd", "mariadbd", *options, *own)
        self._wait(socket_.exists, "mariadbd")
        self._popen("slurmdbd", "slurmdbd", "-D")
        self._wait(lambda: self.call("sacctmgr", "-n", "show", "cluster").returncode == 0, "slurmdbd", 60)
        words = (("cluster", "test"), ("account", self.account, "Cluster=test"), ("user", user, f"Account={self.account}"))
        for what in words:
            done = self.call("sacctmgr", "-i", "add", *what)
            assert done.returncode == 0, done.stdout + done.stderr

    def start_controller(self) -> None:
        self._popen("slurmctld", "slurmctld", "-D")
        self._wait(lambda: "UP" in self.call("scontrol", "ping").stdout, "slurmctld")

    def start_node(self, node: str) -> None:
        self._popen(node, "slurmd", "-D", "-N", node)

    def start_away(self, hidden: Path) -> None:
        """The node on which a folder is empty: it does not share that file system."""
        command = f'mount -t tmpfs none "{hidden}" && exec slurmd -D -N {self.away}'
        self._popen(self.away, "unshare", "--mount", "sh", "-c", command)
        self._wait(lambda: self._idle("away") == 1, self.away)

    def _idle(self, partition: str) -> int:
        shown = self.call("sinfo", "-h", "-p", partition, "-t", "idle", "-o", "%D").stdout.split()
        return sum(map(int, shown))

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
        if "slurmctld" in self.processes:
            with contextlib.suppress(Exception):
                self.call("scancel", "--user", getpass.getuser(), "--signal=KILL", "--full")
                self.call("scancel", "--user", getpass.getuser())
                self._wait(lambda: not self.jobs(), "the jobs to end", 20)
        for name in (self.away, *self.nodes, "slurmctld", "slurmdbd", "mariadbd", "munged"):
            if name in self.processes:
                self.end(name)

    def call(self, *command: str, given: str = "") -> subprocess.CompletedProcess:
        env = {**os.environ, **self.environment()}
        return subprocess.run(command, env=env, input=given, capture_output=True, text=True, timeout=60)

    def jobs(self) -> list[tuple[str, str, str]]:
        """Jobs that have not ended: id, state, comment (Snakemake puts the rule there)."""
        lines = self.call("squeue", "-h", "-t", "PD,R,CG,S", "-o", "%i|%T|%k").stdout.splitlines()
        return [tuple(line.split("|", 2)) for line in lines]

    def show(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says: {"JobState": "RUNNING", ...}; of an array of words the last."""
        words = self.call("scontrol", "show", "job", "--oneliner", job).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def submitted(self) -> list[str]:
        """The comment of every job so far, ended or not, oldest first."""
        lines = self.call("squeue", "-h", "-t", "all", "--sort=i", "-o", "%k").stdout.splitlines()
        return [line for line in lines if line.startswith("rule_")]

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
