"""The order in which nodes fetch a version from each other, which all nodes and the shim compute alike. Pure.

Every version has an order of its own (rendezvous hashing), so that no node is the first for all of them. A node that is
fetching a version waits only for nodes before it in this order. So no circle can arise, whatever each node believes
about which nodes there are.

`key` names what is fetched: the digest of a version, or `legacy_key` where the digest is not known in advance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Iterable


def legacy_key(meeting_id: str, token: str) -> str:
    """Return the key of a meeting's package at a master without manifests, under its `token`."""
    return f"{meeting_id}\0{token}"


def precedes(key: str, node_id: str, other: str) -> bool:
    """Return whether `node_id` is before `other` in the order of `key`. False for the same node."""
    return rank(key, node_id) < rank(key, other)


def predecessors(key: str, node_id: str, others: Iterable[str]) -> list[str]:
    """Return those of `others` that are before `node_id` in the order of `key`, the nearest one first."""
    own = rank(key, node_id)
    ranked = ((rank(key, other), other) for other in others)
    return [other for place, other in sorted(ranked, reverse=True) if place < own]


def spread(key: str, node_id: str, holders: Iterable[str]) -> list[str]:
    """Return `holders` in the order in which `node_id` asks them: another one for each node, so that all share."""
    return sorted((other for other in holders if other != node_id), key=lambda other: rank(f"{key}\0{node_id}", other))


def rank(key: str, node_id: str) -> bytes:
    """Return by what nodes are sorted in the order of `key`."""
    return blake3(f"{key}\0{node_id}".encode(errors="surrogatepass")).digest(16)
