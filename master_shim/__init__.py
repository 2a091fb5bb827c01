"""What a master gains: an ASGI app that sends clients to nodes, to mount in a master or to wrap one with.

The names are loaded when first used: a node takes the wire types from `master_shim.protocol`, and needs
none of the app for that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import MasterShim
    from .middleware import MasterShimMiddleware
    from .packages import DirectoryPackages

__all__ = ["DirectoryPackages", "MasterShim", "MasterShimMiddleware"]

_HOMES = {"DirectoryPackages": ".packages", "MasterShim": ".app", "MasterShimMiddleware": ".middleware"}


def __getattr__(name: str) -> Any:
    """Load a public name (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
