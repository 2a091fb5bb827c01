"""A node: serves meeting packages to tablets on behalf of the master.

`app` is the ASGI application for `hypercorn trionode:app` and `hypercorn -k trio trionode:app`; it loads its settings
from the environment at its first call. `create_app` makes an application with given settings. Names are imported when
first used, so that a command does not load the server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import SettingError
    from .server.hosted import create_app
    from .settings import Settings, load_settings

__all__ = ["SettingError", "Settings", "app", "create_app", "load_settings"]

_MODULES = {
    "SettingError": ".errors",
    "Settings": ".settings",
    "create_app": ".server.hosted",
    "load_settings": ".settings",
}


def __getattr__(name: str) -> Any:
    """Import a public name (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name], __name__), name)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve one ASGI scope. A function here, since Hypercorn looks for `app` among the module's variables only."""
    from .server.hosted import app as hosted_app

    await hosted_app(scope, receive, send)
