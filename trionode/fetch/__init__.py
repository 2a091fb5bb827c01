"""Fetching versions from the master and committing them, while downloads follow."""
