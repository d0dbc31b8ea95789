"""What sacct says, as it says it; tests/test_slurm.py asks a real one."""

import os

from emplifai import accounting
from emplifai.accounting import Ended


def test_what_sacct_kept_of_jobs_of_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [
        f"7|COMPLETED|61||{tmp_path}",
        "7.batch|COMPLETED|61|205484K|",
        "7.0|COMPLETED|58|1.5G|",
        f"8|CANCELLED by 1000|5||{tmp_path}",
        f"9|OUT_OF_MEMORY|70||{tmp_path}",
        "9.batch|OUT_OF_MEMORY|70|1073741824|",
        f"10|RUNNING|3||{tmp_path}",
        "11|COMPLETED|9||/another/project",
        "11.batch|COMPLETED|9|99K|",
    ]
    sacct = tmp_path / "sacct"
    sacct.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert accounting.ended(["7", "8", "9", "10", "11"]) == {
        "7": Ended("COMPLETED", 61, 3 * 2**29),
        "8": Ended("CANCELLED by 1000", 5, None),
        "9": Ended("OUT_OF_MEMORY", 70, 2**30),
    }
    sacct.write_text("#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    assert accounting.ended(["7"]) == {}
    sacct.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert accounting.ended(["7"]) == {}
