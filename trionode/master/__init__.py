"""The HTTP client for the master."""
