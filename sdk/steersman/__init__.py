"""Steersman's client library: typed objects, an asynchronous and a synchronous client, watch caches."""

from __future__ import annotations

from steersman.cache import Cache
from steersman.client import AsyncClient, ObjectList, WatchEvent, WriteResult
from steersman.errors import ApiError, Cause
from steersman.sync import Client

__all__ = ["ApiError", "AsyncClient", "Cache", "Cause", "Client", "ObjectList", "WatchEvent", "WriteResult"]
