"""Service accounts: a pod that names none runs as `default`."""

from __future__ import annotations

from control.admission.chain import CREATE, Request, View
from steersman.errors import ApiError

DEFAULT_ACCOUNT = "default"


def admit(request: Request, _view: View) -> ApiError | None:
    if request.operation == CREATE and request.concerns("pods") and not request.subresource:
        assert request.document is not None
        spec = request.document["spec"]
        name = spec.get("serviceAccountName") or DEFAULT_ACCOUNT
        spec["serviceAccountName"] = spec["serviceAccount"] = name  # the second is the first one's old name
    return None
