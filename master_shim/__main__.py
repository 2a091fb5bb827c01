"""`python -m master_shim`: the same as the command `master-shim`."""

from .cli import main

if __name__ == "__main__":
    main()
