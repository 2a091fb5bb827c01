"""The base class of the store's errors. Each error is defined in the module that it is about. Pure."""

from __future__ import annotations


class StoreError(Exception):
    """Base class of every error that the store raises on purpose."""
