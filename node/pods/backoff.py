"""How long to wait before trying again. Pure.

Restarts follow the kubelet: the first is immediate, then 10 s, 20 s, … up to 5 minutes between the end of one instance
and the start of the next; an instance that ran for 10 minutes clears the count. Pulls follow the same ladder.
"""

from __future__ import annotations

FIRST_S = 10.0
CAP_S = 300.0
RESET_AFTER_S = 600.0  # twice the cap, as the kubelet's


def restart_delay(crashes: int) -> float:
    """Seconds between an end and the next start, after `crashes` ends in a row."""
    return 0.0 if crashes <= 1 else min(CAP_S, FIRST_S * 2.0 ** min(crashes - 2, 16))


def retry_delay(failures: int) -> float:
    """Seconds before a failed pull is tried again, after `failures` failures in a row."""
    return min(CAP_S, FIRST_S * 2.0 ** min(max(failures, 1) - 1, 16))


def setup_delay(failures: int) -> float:
    """Seconds before a sandbox, a volume or a container's configuration is tried again.

    Shorter than a pull's: nobody else's service is asked, and what is missing usually comes soon.
    """
    return min(20.0, 0.5 * 2.0 ** min(max(failures, 1) - 1, 16))


def crashes_after(crashes: int, ran_s: float) -> int:
    """The count of ends in a row after an instance that ran for `ran_s` ended."""
    return 1 if ran_s >= RESET_AFTER_S else crashes + 1


def restarts(policy: str, exit_code: int) -> bool:
    """Whether a restart policy (Always, OnFailure, Never) starts another instance."""
    return policy == "Always" or (policy == "OnFailure" and exit_code != 0)
