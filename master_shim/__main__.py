"""`python -m master_shim`: the command `master-shim`."""

from .cli import main

if __name__ == "__main__":
    main()
