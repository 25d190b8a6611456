"""Generate the gRPC stubs of `proto/steersman/` when the distribution is built or installed in place."""

from __future__ import annotations

import importlib.resources
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def generate(include: Path, pattern: str, out: Path) -> None:
    """Compile every proto file below `include` that matches `pattern` into modules and typing stubs below `out`.

    Raises:
        RuntimeError: no file matches, or the compiler refuses one.
    """
    from grpc_tools import protoc

    files = sorted(str(path) for path in include.glob(pattern))
    if not files:
        raise RuntimeError(f"no proto files match {include / pattern}")
    well_known = str(importlib.resources.files("grpc_tools") / "_proto")
    scripts = Path(sys.executable).parent
    plugins = [
        f"--plugin={name}={path}"
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
        if (path := scripts / name).exists()
    ]
    outputs = [f"--python_out={out}", f"--grpc_python_out={out}"]
    if len(plugins) == 2:
        outputs += [f"--mypy_out={out}", f"--mypy_grpc_out={out}"]
    code = protoc.main(["protoc", f"-I{include}", f"-I{well_known}", *plugins, *outputs, *files])
    if code != 0:
        raise RuntimeError(f"protoc ended with {code} for {files}")


class StubsBuildHook(BuildHookInterface[Any]):
    """Runs before every build of this distribution, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        here = Path(self.root)
        include = here / "proto" if (here / "proto").is_dir() else here.parent / "proto"
        generate(include, "steersman/**/*.proto", here)
