"""SLURM by Snakemake's plugin (snakemake-executor-plugin-slurm 2.8.0), mended where it waits for ever or gives up too soon.

Each mend names what the plugin does without it. The pin in constraints.txt and tests/test_slurm.py keep them together.
"""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

PLUGIN = "snakemake_executor_plugin_slurm"
UNKNOWN = 10**6  # seconds: a MinJobAge that no interval comes near
ABSENT = 3  # polls in a row that do not show a job: SLURM has forgotten it
PATIENCE = 3600  # seconds that a submission waits for slurmctld


def mend() -> None:
    """Mend the plugin, and its part that runs inside a job, if Snakemake has loaded them; once.

    Accounts are SLURM's to judge (admission.py asks it): without, the plugin refuses any where there is no accounting, and
    guesses one where none is given, by a sacct command that is wrong.
    """
    if inside := sys.modules.get(f"{PLUGIN}_jobstep"):
        _keep_configuration(inside)
    plugin = sys.modules.get(PLUGIN)
    if plugin is None or hasattr(plugin.Executor, "mended"):
        return
    plugin.Executor.mended = True
    plugin.get_min_job_age = _min_job_age(plugin.get_min_job_age)
    plugin.validate_account = lambda account, logger: account
    plugin.query_job_status = _plain_states(plugin.query_job_status)
    _note_ends(plugin.Executor)
    plugin.Executor.check_active_jobs = _keep_in_sight(plugin.Executor.check_active_jobs)
    plugin.Executor.run_job = _when_there(plugin.Executor.run_job)


def _keep_configuration(inside: ModuleType) -> None:
    """Without: srun inside a job loses SLURM_CONF, by which a site without /etc/slurm/slurm.conf lives, and the job fails."""
    real, kept = subprocess, {k: v for k, v in os.environ.items() if k == "SLURM_CONF"}

    def popen(*args, env=None, **options):
        return real.Popen(*args, env=None if env is None else {**env, **kept}, **options)

    inside.subprocess = SimpleNamespace(**{**vars(real), "Popen": popen})


def _min_job_age(original):
    """Without: one failed `scontrol`, or a cluster without accounting, and the plugin polls a sacct that cannot answer."""

    def get_min_job_age() -> int:
        age = original()
        return age if age is not None and _accounting() else UNKNOWN

    return get_min_job_age


def _accounting() -> bool:
    try:
        shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return "accounting_storage/slurmdbd" in shown


def _plain_states(original):
    """Without: sacct's "CANCELLED by 1000" is none of the states that the plugin knows, so the job counts as running; so does
    a preempted job, though SLURM calls only those so that it has ended and does not requeue."""

    async def query_job_status(command: str, logger: Any):
        states, seconds = await original(command, logger)
        if states is None:
            return None, seconds
        plain = {job: state.split()[0] for job, state in states.items() if state}
        return {job: "CANCELLED" if state == "PREEMPTED" else state for job, state in plain.items()}, seconds

    return query_job_status


def _note_ends(executor: type) -> None:
    """Remember which jobs were reported as ended; without: no word of a failed job under `dvc repro`, whose Snakemake is quiet
    about rules, nor of the commonest cause of a job that fails without a log."""
    success, error = executor.report_job_success, executor.report_job_error

    def report_job_success(self, job, *args, **kwargs):
        vars(self).setdefault("_ended", set()).add(job.external_jobid)
        return success(self, job, *args, **kwargs)

    def report_job_error(self, job, msg=None, **kwargs):
        vars(self).setdefault("_ended", set()).add(job.external_jobid)
        log = (job.aux or {}).get("slurm_logfile")
        if log and not Path(log).exists():
            msg = f"{msg or ''} {_unseen(job.external_jobid)}"
        if "rules" in map(str, self.workflow.output_settings.quiet or ()):
            self.logger.error(f"{' '.join([job.job.rule.name, *job.job.wildcards])}: {msg} Its log: {log}")
        return error(self, job, msg=msg, **kwargs)

    executor.report_job_success, executor.report_job_error = report_job_success, report_job_error


def _unseen(job: str) -> str:
    asked = subprocess.run(["squeue", "-h", "-t", "all", "-j", job, "-o", "%N"], capture_output=True, text=True)
    return (
        f"It left no log: does its node ({asked.stdout.strip() or 'unknown'}) see {Path.cwd()}? "
        "The project must lie on a file system that all nodes share."
    )


def _keep_in_sight(original):
    """Without: a poll that SLURM does not answer makes the plugin forget all jobs, and wait for ever for none.

    Also polls at a steady pace (the plugin's grows to 3 minutes, in which a cluster may forget that a job ended), says when
    SLURM is silent, releases a job that SLURM holds since it could not be launched (a node that came back too soon), and gives
    a job up that SLURM no longer knows: its next try finds in the cache what it had made.
    """

    async def check_active_jobs(self, active_jobs):
        async for _ in original(self, active_jobs):
            pass
        kept = [job for job in active_jobs if job.external_jobid not in vars(self).get("_ended", ())]
        known = await _known(self.run_uuid) if kept else {}
        _tell_silence(self, known is None)
        for job in [job for job, reason in (known or {}).items() if reason == "launch failed requeued held"]:
            self.logger.warning(f"SLURM holds job {job}, since its node could not launch it: released.")
            subprocess.run(["scontrol", "release", job], capture_output=True)
        for job in kept:
            if not _gone(self, job, known):
                yield job
        self.next_seconds_between_status_checks = self.workflow.executor_settings.init_seconds_before_status_checks

    return check_active_jobs


async def _known(run: str) -> dict[str, str] | None:
    """The run's jobs that SLURM knows, with what they wait for; None when it does not answer."""
    command = ("squeue", "--noheader", "--states=all", "--format=%i|%r", "--name", run)
    try:
        process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-3)
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    except (OSError, TimeoutError):
        return None
    rows = (line.split("|", 1) for line in out.decode().splitlines() if "|" in line)
    return {job: reason.strip() for job, reason in rows} if process.returncode == 0 else None


def _gone(executor: Any, job: Any, known: dict[str, str] | None) -> bool:
    absent = vars(executor).setdefault("_absent", {})
    if known is None or job.external_jobid in known or "_" in job.external_jobid:
        absent.pop(job.external_jobid, None)
        return False
    absent[job.external_jobid] = absent.get(job.external_jobid, 0) + 1
    if absent[job.external_jobid] < ABSENT:
        return False
    executor.report_job_error(job, msg=f"SLURM no longer knows job {job.external_jobid}, nor how it ended. ")
    return True


def _tell_silence(executor: Any, silent: bool) -> None:
    since = getattr(executor, "_silent", None)
    if silent and since is None:
        executor._silent = time.monotonic()
        executor.logger.warning("SLURM does not answer (squeue fails). Jobs run on; this waits until it does.")
    elif not silent and since is not None:
        executor._silent = None
        executor.logger.warning(f"SLURM answers again after {time.monotonic() - since:.0f} seconds.")


def _when_there(original):
    """Without: a submission fails while slurmctld restarts, and three such failures end the run."""

    def run_job(self, job):
        self._fallback_account_arg = ""
        until, told = time.monotonic() + PATIENCE, False
        while time.monotonic() < until and subprocess.run(["sinfo", "-h"], capture_output=True).returncode:
            if not told:
                self.logger.warning("SLURM does not answer: the next job is submitted when it does.")
                told = True
            time.sleep(5)
        return original(self, job)

    return run_job
