"""The command line: commands by name, and errors turned into a message and an exit status."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import cyclopts

from . import discard_unwritten, exits, prepare_streams, print_error

if TYPE_CHECKING:
    from collections.abc import Sequence


UNWRITTEN = "the output cannot be written: {}"


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
    prepare_streams()
    try:
        # Help and version return nothing.
        status = cli(arguments) or exits.OK
        sys.stdout.flush()
    except BrokenPipeError:
        status = exits.UNREAD
    except Exception as error:  # noqa: BLE001 - `explain` raises bugs again
        from .explain import explain

        reason = isinstance(error, OSError) and discard_unwritten()
        if isinstance(error, OSError) and isinstance(error.__context__, cyclopts.CycloptsError):
            status = exits.USAGE  # only the message about it could not be written
        else:
            sentence, status = (UNWRITTEN.format(reason), exits.FAILED) if reason else explain(error)
            print_error(f"trionode: {sentence}")
    finally:
        discard_unwritten()
    return status
