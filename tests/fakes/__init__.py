"""Fakes of the deployed master, node and tablet (contract.md), with their faults: real servers and a real client."""
