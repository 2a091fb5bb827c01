"""The states of a node from start to stop, as one table. They decide whether packages are served."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import trio

from .errors import NodeStopped

if TYPE_CHECKING:
    from collections.abc import Mapping


END_SECONDS = 10.0
"""Time to end after the drain, more than every step of it takes together. Then the process is ended from outside its
threads: one that waits for a disk that does not answer can be neither cancelled nor joined."""


class NodeState(enum.Enum):
    """`STARTING`, `FAILED` and `STOPPED` nodes serve no packages; only a `SERVING` node is ready for new clients."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"
    FAILED = "failed"
    STOPPED = "stopped"


class NodeEvent(enum.Enum):
    """Events that change the state of a node."""

    SERVE = "serve"
    DRAIN = "drain"
    FAIL = "fail"
    STOP = "stop"


TRANSITIONS: Mapping[tuple[NodeState, NodeEvent], NodeState] = {
    (NodeState.STARTING, NodeEvent.SERVE): NodeState.SERVING,
    (NodeState.SERVING, NodeEvent.DRAIN): NodeState.DRAINING,
    (NodeState.DRAINING, NodeEvent.DRAIN): NodeState.DRAINING,
    (NodeState.STARTING, NodeEvent.FAIL): NodeState.FAILED,
    (NodeState.SERVING, NodeEvent.FAIL): NodeState.FAILED,
    (NodeState.DRAINING, NodeEvent.FAIL): NodeState.FAILED,
    (NodeState.STARTING, NodeEvent.STOP): NodeState.STOPPED,
    (NodeState.SERVING, NodeEvent.STOP): NodeState.STOPPED,
    (NodeState.DRAINING, NodeEvent.STOP): NodeState.STOPPED,
    # A failed node stays failed until its process ends, so that /health reports it.
    **{(NodeState.FAILED, event): NodeState.FAILED for event in NodeEvent},
    **{(NodeState.STOPPED, event): NodeState.STOPPED for event in NodeEvent},
    # Before the node serves there is nothing to drain.
    (NodeState.STARTING, NodeEvent.DRAIN): NodeState.STARTING,
}
"""Every transition; `docs/architecture.md` shows the same table."""


class Lifecycle:
    """The state of one node, changed by `apply` and `fail` only. `failure` is the error that made the node fail."""

    def __init__(self) -> None:
        self.state = NodeState.STARTING
        self.failure: Exception | None = None
        self._failed = trio.Event()

    @property
    def serving(self) -> bool:
        """Whether packages are served: also while draining, for clients that the master has already sent here."""
        return self.state in {NodeState.SERVING, NodeState.DRAINING}

    @property
    def ready(self) -> bool:
        """Whether the master may send new clients here."""
        return self.state is NodeState.SERVING

    def apply(self, event: NodeEvent) -> None:
        """Change the state. Every event is allowed in every state but `SERVE`, which happens once."""
        self.state = TRANSITIONS[self.state, event]

    def fail(self, error: Exception) -> None:
        """Record the error that ended the node's services. The first one counts."""
        self.apply(NodeEvent.FAIL)
        if self.state is NodeState.FAILED and self.failure is None:
            self.failure = error
            self._failed.set()

    async def wait_failed(self) -> None:
        """Wait until the node has failed."""
        await self._failed.wait()

    def require_serving(self) -> None:
        """Raise `NodeStopped` unless packages are served."""
        if self.failure is not None:
            raise NodeStopped(f"it has failed: {self.failure!r}")
        if not self.serving:
            raise NodeStopped(f"it is {'starting' if self.state is NodeState.STARTING else 'stopping'}")

    def require_ready(self) -> None:
        """Raise `NodeStopped` unless new clients may be sent here."""
        self.require_serving()
        if not self.ready:
            raise NodeStopped("it is draining")
