"""Running an ASGI application: under our own server program, and under third-party servers."""
