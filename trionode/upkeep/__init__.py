"""Maintenance of the storage: eviction, repair, scrub, and changes that other processes make in the folder."""
