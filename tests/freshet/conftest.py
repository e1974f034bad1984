from __future__ import annotations

from tests.service.conftest import anyio_backend, make_config

__all__ = ["anyio_backend", "make_config"]
