"""Heartbeats to the master: building them, limiting their size, sending them."""
