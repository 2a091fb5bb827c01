"""From a change at the master to a package on this disk."""
