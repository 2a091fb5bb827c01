"""The command `master-shim`: a small standalone master.

Imports at the top are light, so that `--help` and usage errors are quick: the server is imported when it is started.
"""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, CycloptsError, Parameter, validators

from .errors import FolderMissing, FolderUnreadable
from .packages import KEEP_SECONDS

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from pathlib import Path

    from .packages.source import ListedMeeting

FAILED = 1
"""Exit status if the output cannot be written."""
WRONG_USAGE = 2
"""Exit status if the command cannot start."""
NOT_RUNNING = 3
"""Exit status if no master answers."""
UNREAD = 128 + signal.SIGPIPE
"""Exit status if whoever read the output has left, as `head` does: what a shell reports for other programs then."""


def _version() -> str:
    from importlib.metadata import version

    return version("trionode")  # the distribution that has both programs


app = App(name="master-shim", help="A small master that sends tablets to the nodes of a LAN.", version=_version)


TrustedProxies = Annotated[
    str,
    Parameter(
        help="Proxies whose X-Forwarded-* and Forwarded fields are believed: addresses and networks, with commas "
        "between them, such as 192.168.1.5,10.0.9.0/24. Without it: those on this machine."
    ),
]


@app.command
def serve(
    *,
    packages: Annotated[str, Parameter(help="Folder of MEETING-ID.zip files: each is a meeting in progress.")],
    host: Annotated[str, Parameter(help="Address to listen on, or a name: then all its addresses.")] = "0.0.0.0",
    port: Annotated[int, Parameter(help="Port to listen on; 0 chooses a free one.")] = 8000,
    trusted_proxies: TrustedProxies | None = None,
    keep_seconds: Annotated[
        float,
        Parameter(
            help="How long meetings stay in progress when the folder is suddenly empty or missing, as an unmounted "
            "share is.",
            validator=validators.Number(gte=0),
        ),
    ] = KEEP_SECONDS,
) -> int:
    """Serve a folder of packages as a master: nodes register here, and tablets are redirected to them."""
    from trionode.cli import discard_unwritten
    from trionode.logs import configure_logs
    from trionode.server.listeners import CannotListen, listen_tcp

    from .app import MasterShim
    from .packages.directory import DirectoryPackages
    from .protocol.forwarded import LOOPBACK, ProxiesInvalid

    configure_logs("info")
    try:
        source = DirectoryPackages(packages, keep_seconds=keep_seconds)
        meetings = source.read()
        shim = MasterShim(source, trusted_proxies=LOOPBACK if trusted_proxies is None else trusted_proxies)
        listeners = listen_tcp(host, port)
    except FolderMissing as error:
        return _refuse(f"{error}; create it, or name another with --packages")
    except FolderUnreadable as error:
        return _refuse(f"the packages folder cannot be read: {error.reason}")
    except (CannotListen, ProxiesInvalid) as error:
        return _refuse(str(error))
    from .serving import run

    with ExitStack() as stack:
        for listener in listeners:
            stack.enter_context(listener)
        with suppress(OSError):  # nobody reads it, or its disk is full
            _announce(listeners, source.folder, meetings)
        discard_unwritten()
        run(shim, listeners)
    return 0


@app.command
def status(
    url: Annotated[str, Parameter(help="URL of the master, or its host:port.")] = "http://127.0.0.1:8000",
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
) -> int:
    """Show the nodes, the meetings and the downloads of a running master."""
    from trionode.cli.output import StandardOutput, print_json
    from trionode.master.tls import reason_of

    from . import remote_status

    try:
        report = remote_status.fetch(url, reason_of)
    except remote_status.NoMaster as error:
        return _refuse(str(error), NOT_RUNNING)
    if as_json:
        print_json(report)
    else:
        remote_status.show(StandardOutput(), url, report)
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0 for success, 2 after a usage error or if it cannot start, 3 if no master answers."""
    from trionode.cli import discard_unwritten, prepare_streams

    prepare_streams()
    try:
        status = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        status = _refuse(f"{error} (see master-shim --help)")
    except BrokenPipeError:
        status = UNREAD
    except OSError:
        reason = discard_unwritten()
        if reason is None:
            raise
        status = _refuse(f"the output cannot be written: {reason}", FAILED)
    finally:
        discard_unwritten()
    sys.exit(status)


def _refuse(message: str, status: int = WRONG_USAGE) -> int:
    from trionode.cli import print_error

    print_error(f"master-shim: {message}")
    return status


def _announce(listeners: list[socket.socket], folder: Path, meetings: tuple[ListedMeeting, ...]) -> None:
    for listener in listeners:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"master-shim: listening on http://{shown}:{port}")
    if meetings:
        print(f"{len(meetings)} in progress in {folder}:")
    else:
        print(f"no meeting in progress yet: every <meeting id>.zip put into {folder} is one")
    for meeting in meetings:
        print(f"  {meeting.id}  {meeting.title}")
    sys.stdout.flush()
