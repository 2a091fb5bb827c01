"""From a request for a package to bytes on the wire."""
