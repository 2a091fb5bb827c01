"""The command `trionode`: `serve` runs a node, `status` shows one that runs, the others look after its storage.

Exit statuses, of all commands: 0 done, and all is right; 1 something is wrong, or was not done; 2 what was asked for
cannot be understood or is not there; 3 (`status`, `drain`, `reload`) no node answers; 4 (`verify --repair`) damage was
found, and is gone.
"""

from __future__ import annotations

import functools
import json
import sys
from importlib.metadata import version
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts
import httpx
from cyclopts import Parameter
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from master_shim.protocol import one_line
from store import NoSpace, StoreError

from .commands import checking, keeping, listing, moving, running
from .config import load_settings
from .errors import CommandFailed, SettingError
from .logs import configure_logs
from .server.runner import EXIT_FAILED, EXIT_USAGE, serve

if TYPE_CHECKING:
    from collections.abc import Sequence

STATUS_SECONDS = 5.0
MAX_SHOWN = 1_000
"""Characters of anything in a status that is shown."""

EXIT_NOT_RUNNING = 3

cli = cyclopts.App(
    name="trionode",
    help="Lets this machine send the packages of meetings to tablets, in place of a master that cannot send them all.",
    version=version("trionode"),
    result_action="return_value",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status. 2: what was asked for cannot be understood."""
    try:
        # Help and version return nothing.
        return cli(arguments) or 0
    except SettingError as error:
        return _refuse(str(error), EXIT_USAGE)
    except CommandFailed as error:
        return _refuse(error.reason, error.status)
    except NoSpace as error:
        return _refuse(f"{error}; trionode gc or evict makes room", EXIT_FAILED)
    except StoreError as error:
        return _refuse(str(error), EXIT_FAILED)
    except PermissionError as error:
        return _refuse(f"{error.filename or 'the storage'}: {error.strerror}; run this as the node's user", EXIT_FAILED)


def _refuse(sentence: str, status: int) -> int:
    print(f"trionode: {sentence}", file=sys.stderr)
    return status


cli.command(running.drain)
cli.command(running.reload)
cli.command(listing.ls)
cli.command(checking.verify)
cli.command(keeping.gc)
cli.command(keeping.pin)
cli.command(keeping.unpin)
cli.command(keeping.evict)
cli.command(moving.import_package, name="import")
cli.command(moving.export)
cli.command(moving.diff)


@cli.command(name="serve")
def serve_command(
    *,
    main_server: str | None = None,
    node_address: str | None = None,
    storage_path: str | None = None,
    sync_interval: str | None = None,
    node_id: str | None = None,
    host: str | None = None,
    port: str | None = None,
    max_bytes: str | None = None,
    min_free_bytes: str | None = None,
    max_downloads: str | None = None,
    queue_seconds: str | None = None,
    client_bytes_per_second: str | None = None,
    total_bytes_per_second: str | None = None,
    scrub_bytes_per_second: str | None = None,
    log_level: str | None = None,
    workers: str | None = None,
    drain_seconds: str | None = None,
    max_connections: str | None = None,
    progress_seconds: str | None = None,
    progress_bytes: str | None = None,
    unix_socket: str | None = None,
    certfile: str | None = None,
    keyfile: str | None = None,
    config: Path | None = None,
) -> int:
    """Run a node until it is told to stop (SIGTERM, Ctrl-C).

    A flag is stronger than an environment variable, and that than the TOML file.

    Parameters
    ----------
    main_server
        URL of the master. [MAIN_SERVER_URL, default http://127.0.0.1:8000]
    node_address
        host:port by which clients reach this node. [NODE_ADDRESS, default localhost:8001]
    storage_path
        Folder for the packages. [STORAGE_PATH, default ./storage]
    sync_interval
        Seconds between two full looks at the master. [SYNC_INTERVAL, default 300]
    node_id
        Name of this node at the master; made once and kept in the storage folder if not given. [NODE_ID]
    host
        Address to listen on. [TRIONODE_HOST, default 0.0.0.0]
    port
        Port to listen on. [TRIONODE_PORT, default 8001]
    max_bytes
        What the storage may hold, such as 50G; 0 for no limit. [TRIONODE_MAX_BYTES, default 0]
    min_free_bytes
        What stays free on the disk, such as 2G. [TRIONODE_MIN_FREE_BYTES, default 0]
    max_downloads
        Downloads at once; 0 for no limit. [TRIONODE_MAX_DOWNLOADS, default 0]
    queue_seconds
        How long one more than that waits for a place before it is refused. [TRIONODE_QUEUE_SECONDS, default 4]
    client_bytes_per_second
        What each client's address gets at most, such as 10M; 0 for no limit.
        [TRIONODE_CLIENT_BYTES_PER_SECOND, default 0]
    total_bytes_per_second
        What all downloads together get at most, such as 100M; 0 for no limit.
        [TRIONODE_TOTAL_BYTES_PER_SECOND, default 0]
    scrub_bytes_per_second
        How fast stored packages are read again, to notice a disk that loses bits; 0 for not at all.
        [TRIONODE_SCRUB_BYTES_PER_SECOND, default 8M]
    log_level
        debug, info, warning or error. [TRIONODE_LOG_LEVEL, default info]
    workers
        Processes that serve. [TRIONODE_WORKERS, default 1]
    drain_seconds
        How long downloads may go on after the node was told to stop. [TRIONODE_DRAIN_SECONDS, default 30]
    max_connections
        Connections at once; 0 for as many as the system allows. [TRIONODE_MAX_CONNECTIONS, default 0]
    progress_seconds
        A client must take progress_bytes in this time, or is cut off. [TRIONODE_PROGRESS_SECONDS, default 30]
    progress_bytes
        See progress_seconds. [TRIONODE_PROGRESS_BYTES, default 64K]
    unix_socket
        Listen on this Unix socket, and not on host and port. [TRIONODE_UNIX_SOCKET]
    certfile
        Certificate and chain (PEM), to serve HTTPS; with keyfile. [TRIONODE_CERTFILE]
    keyfile
        Private key of certfile (PEM). [TRIONODE_KEYFILE]
    config
        TOML file with any of these settings. [TRIONODE_CONFIG]
    """
    flags = {name: value for name, value in locals().items() if name != "config"}
    reread = functools.partial(load_settings, flags, config=config)
    settings = reread()
    configure_logs(settings.log_level)
    return serve(settings, reread)


@cli.command
def status(
    url: str | None = None,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    config: Path | None = None,
) -> int:
    """Show what a running node holds and does.

    Parameters
    ----------
    url
        Where the node listens; by default the port of the settings on this machine.
    as_json
        Print the node's answer as JSON.
    config
        TOML file with the node's settings. [TRIONODE_CONFIG]
    """
    if url is None:
        url = f"http://127.0.0.1:{load_settings(config=config).port}"
    try:
        # A proxy of the environment has no business between this machine and its own node.
        answer = httpx.get(f"{url.rstrip('/')}/api/status", timeout=STATUS_SECONDS, trust_env=False)
        report = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        print(f"no node answers at {url}: {error}", file=sys.stderr)
        return EXIT_NOT_RUNNING
    if answer.status_code != 200:
        print(f"the node at {url} says: {report.get('detail', answer.status_code)}", file=sys.stderr)
        return EXIT_NOT_RUNNING
    if as_json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        _print_status(report)
    return 0


def _health(health: dict[str, Any]) -> str:
    said = f"{decimal(health['scrubbed_bytes'])} read again, {health['repaired_chunks']} chunks repaired"
    if health["unrepairable"]:
        said += f", {health['unrepairable']} versions could not be and were removed"
    return said


def _print_status(report: dict[str, Any]) -> None:
    console = Console()
    # Titles and reasons are others' words: as `Text`, for in strings rich takes brackets for colours.
    connected = Text("connected") if report["connected"] else Text("not connected", "red")
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("node", f"{report['node_id']} at {report['node_ip']}:{report['node_port']}"),
        (
            "master",
            Text.assemble(
                f"{report['main_server']}, ", connected, f", last looked at {report['last_sync'] or 'never'}"
            ),
        ),
        ("sync", report["sync_status"]),
        ("storage", f"{decimal(report['storage_usage'])} in {report['versions']} versions"),
        ("downloads", f"{report['active_downloads']} now, {report['downloads_finished']} finished"),
        ("health", _health(report["health"])),
        ("bytes", f"{decimal(report['bytes_sent'])} sent, {decimal(report['bytes_fetched'])} fetched"),
    ):
        facts.add_row(Text(name, "bold"), Text(one_line(value, MAX_SHOWN)) if isinstance(value, str) else value)
    console.print(facts)
    table = Table("meeting", "title", "state", "size", "files", "version")
    for meeting in report["active_meetings"]:
        state = f"{meeting['state']}: {meeting['reason']}" if meeting["reason"] else meeting["state"]
        digest = (meeting["version"] or "")[:12]
        cells = (meeting["id"], meeting["title"], state, decimal(meeting["size"]), str(meeting["file_count"]), digest)
        table.add_row(*(Text(one_line(cell, MAX_SHOWN)) for cell in cells))
    console.print(table if report["active_meetings"] else "no meeting is in progress")
