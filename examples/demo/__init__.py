"""The demonstration that `make demo` runs, and the generator of its packages."""
