"""A node: sends the packages of meetings to tablets, in place of a master that cannot send them all.

`app` is what `hypercorn trionode:app` and `hypercorn -k trio trionode:app` serve; it reads its settings from the
environment at its first call. `create_app` makes an application from settings of your own.
"""

from __future__ import annotations

from .app import create_app
from .config import Settings, load_settings
from .errors import SettingError
from .server import prepare_process
from .server.guest import AnyLoop

__all__ = ["SettingError", "Settings", "app", "create_app", "load_settings"]

app = AnyLoop(create_app, prepare_process)
"""The ASGI application, for servers of either loop."""
