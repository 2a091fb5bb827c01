"""From a request to bytes on the wire."""
