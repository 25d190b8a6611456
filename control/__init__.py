"""The control plane: one process per member, `steer-control`."""

from __future__ import annotations

import os

# gRPC reads this when it is first imported; without it, it tells of every connection that ends, beside our own log.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
