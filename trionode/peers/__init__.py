"""Other nodes of the same master: who they are, and requests to them."""
