"""Small programs to run and to read: ways to use the shim in a master, and the demo."""
