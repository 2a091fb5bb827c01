"""Examples: ways to use the shim in a master, and the demo."""
