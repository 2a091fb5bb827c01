"""The deployed master, node and tablet of contract.md, with their quirks: real servers and a real client."""
