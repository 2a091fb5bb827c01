"""The meetings in progress: their states, polls of the master, checks of their packages, and the refs on disk."""
