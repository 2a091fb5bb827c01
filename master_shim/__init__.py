"""An addition to a master: an ASGI application that redirects clients to nodes. Mount it, or wrap a master with it.

The names are loaded when first used, so that nodes can import `master_shim.protocol` without the application.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import MasterShim
    from .middleware import MasterShimMiddleware
    from .packages.directory import DirectoryPackages

__all__ = ["DirectoryPackages", "MasterShim", "MasterShimMiddleware"]

_MODULES = {"DirectoryPackages": ".packages.directory", "MasterShim": ".app", "MasterShimMiddleware": ".middleware"}


def __getattr__(name: str) -> Any:
    """Return a public name, imported when first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)
