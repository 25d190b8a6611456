"""Under kill -9, SIGSTOP, cut links, full disks and changes of who they are, three real members keep their promises."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SECONDS = 40  # about ten faults; `scripts/faults --minutes N` goes on for longer


@pytest.mark.timeout(240)
def test_real_members_keep_their_promises_under_real_faults():
    argv = [sys.executable, "-m", "tests.integration.faults.run", "--seconds", str(SECONDS), "--seed", "7"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    verdict = json.loads(done.stdout.splitlines()[-1])
    assert sum(verdict["faults"].values()) >= 5
    assert verdict["acknowledged"] > 100
    assert verdict["events"] > verdict["acknowledged"]  # several watchers
