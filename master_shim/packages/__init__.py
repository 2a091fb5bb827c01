"""The packages of a master: where they are, which version each file is, and which meetings are in progress."""
