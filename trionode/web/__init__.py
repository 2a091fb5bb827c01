"""The node's ASGI application: packages, routes answered by Quart, status, metrics, and the control socket."""
