"""`python -m trionode`: as on the deployed node, flags without a command are those of `serve`."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in {"--help", "-h", "--version"}):
        arguments = ["serve", *arguments]
    sys.exit(main(arguments))
