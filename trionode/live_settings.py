"""The settings in force, the subscribers that a reload calls, and warnings of what is given and has no effect."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from .settings import SPECS, Settings, unknown_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_log = structlog.get_logger("trionode.settings")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The names of the settings that a reload changed, and of those that differ but need a restart."""

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]


class LiveSettings:
    """The settings in force. `read` reads them again for a reload, and may raise `SettingError`."""

    def __init__(self, current: Settings, read: Callable[[], Settings]) -> None:
        self._current = current
        self._read = read
        self._subscribers: list[Callable[[Settings], None]] = []

    @property
    def current(self) -> Settings:
        """The settings as they are now."""
        return self._current

    def subscribe(self, subscriber: Callable[[Settings], None]) -> None:
        """Call `subscriber` with the settings now, and again after each reload."""
        subscriber(self._current)
        self._subscribers.append(subscriber)

    @contextmanager
    def subscribed(self, subscriber: Callable[[Settings], None]) -> Iterator[None]:
        """Subscribe until the block ends."""
        self.subscribe(subscriber)
        try:
            yield
        finally:
            self._subscribers.remove(subscriber)

    def reload(self) -> Reloaded:
        """Read the settings again and apply those that are live. Raises `SettingError`: then nothing changes."""
        new, old = self._read(), self._current
        differing = [name for name in SPECS if getattr(new, name) != getattr(old, name)]
        changed = tuple(name for name in differing if SPECS[name].live)
        self._current = replace(old, **{name: getattr(new, name) for name in changed})
        for subscriber in self._subscribers:
            subscriber(self._current)
        for name in differing:
            message = "setting changed" if name in changed else "setting differs and needs a restart"
            _log.info(message, setting=name, before=getattr(old, name), now=getattr(new, name))
        return Reloaded(changed, tuple(name for name in differing if name not in changed))


def warn_of_unknown_variables(environ: Mapping[str, str]) -> None:
    """Log the variables `TRIONODE_*` that set nothing."""
    for name, similar in unknown_variables(environ).items():
        advice = f"did you mean {similar}?" if similar else "see trionode serve --help for all variables"
        _log.warning("unknown environment variable; it sets nothing", variable=name, advice=advice)


def warn_of_unused(settings: Settings, instead: Mapping[str, str]) -> None:
    """Log the settings among `instead` that are not the default: they have no effect. The values say what counts."""
    default = Settings()
    for name, used in instead.items():
        value = getattr(settings, name)
        if value != getattr(default, name):
            _log.warning("setting without effect here", setting=name, value=str(value), instead=used)
