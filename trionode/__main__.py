"""`python -m trionode`: the deployed node's command, with its flags. Anything but a flag is a command of `trionode`."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"--help", "-h", "--version"}):
        arguments = ["serve", *arguments]
    sys.exit(main(arguments))
