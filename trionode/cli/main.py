"""The command line: commands by name, and errors turned into a message and an exit status."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import cyclopts

from . import discard_unwritten, exits, replace_unencodable

if TYPE_CHECKING:
    from collections.abc import Sequence


def _version() -> str:
    from importlib.metadata import version

    return version("trionode")


cli = cyclopts.App(
    name="trionode",
    help="Serve meeting packages to tablets on behalf of the master.",
    version=_version,
    result_action="return_value",
)

for _name, _function in {
    "serve": "serve:serve",
    "status": "status:status",
    "sync": "sync:sync",
    "drain": "control:drain",
    "reload": "control:reload",
    "ls": "ls:ls",
    "verify": "verify:verify",
    "gc": "retention:gc",
    "pin": "retention:pin",
    "unpin": "retention:unpin",
    "evict": "retention:evict",
    "import": "transfer:import_package",
    "export": "transfer:export",
    "diff": "transfer:diff",
}.items():
    # By path, so that a command imports only what it uses.
    cli.command(f"trionode.cli.{_function}", name=_name)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit status."""
    replace_unencodable()
    try:
        # Help and version return nothing.
        status = cli(arguments) or exits.OK
        sys.stdout.flush()
    except BrokenPipeError:
        status = exits.UNREAD
    except Exception as error:  # noqa: BLE001 - `explain` raises bugs again
        from .explain import explain

        sentence, status = explain(error)
        print(f"trionode: {sentence}", file=sys.stderr)
    finally:
        discard_unwritten()
    return status
