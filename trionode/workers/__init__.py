"""Several processes that are one node: one of them leads, the others serve what it says is current."""
