"""`trionode serve`: a node under our own server. Its flags are made from the table of settings."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..settings import SPECS, load_settings

_CONFIG_HELP = "TOML file with any of these settings. [TRIONODE_CONFIG]"


def serve(*, config: Path | None = None, **flags: str | None) -> int:
    """Run a node until SIGTERM or Ctrl-C.

    Precedence of settings: flag, environment variable, config file.
    """
    from ..logs import configure_logs
    from ..server.node_runner import serve as run_server

    read = functools.partial(load_settings, flags, config=config)
    settings = read()
    configure_logs(settings.log_level)
    return run_server(settings, read)


def _signature() -> inspect.Signature:
    """Return the signature of `serve` with a keyword parameter for each setting."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(
            name, keyword, default=None, annotation=Annotated[str | None, Parameter(help=spec.describe())]
        )
        for name, spec in SPECS.items()
    ]
    annotation = Annotated[Path | None, Parameter(help=_CONFIG_HELP)]
    return inspect.Signature([*parameters, inspect.Parameter("config", keyword, default=None, annotation=annotation)])


serve.__signature__ = _signature()  # type: ignore[attr-defined]
serve.__annotations__ = {name: parameter.annotation for name, parameter in _signature().parameters.items()}
