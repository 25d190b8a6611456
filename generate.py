"""Generate what the servers need when they are built: stubs of internal protocols and Kubernetes' schemas.

The schemas are those of one Kubernetes version, taken from the build-time dependency `kubernetes-validate`
(108 MB installed) so that it is never needed at run time.
"""

from __future__ import annotations

import gzip
import importlib.resources
import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KUBERNETES_VERSION = "v1.37.0"


def extract_schemas(out: Path) -> None:
    """Write Kubernetes' JSON schema definitions, gzip-compressed, to `out`."""
    package = importlib.resources.files("kubernetes_validate")
    source = package / "kubernetes-json-schema" / f"{KUBERNETES_VERSION}-local" / "_definitions.json"
    out.write_bytes(gzip.compress(source.read_bytes(), mtime=0))


class ServerBuildHook(BuildHookInterface[Any]):
    """Runs before every build of this distribution, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        spec = importlib.util.spec_from_file_location("sdk_generate", root / "sdk" / "generate.py")
        assert spec is not None
        assert spec.loader is not None
        sdk = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sdk)
        for package in ("control", "node"):
            if list((root / "proto").glob(f"{package}/**/*.proto")):
                sdk.generate(root / "proto", f"{package}/**/*.proto", root)
        extract_schemas(root / "control" / "registry" / "schemas.json.gz")
