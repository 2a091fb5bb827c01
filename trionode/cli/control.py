"""`trionode drain` and `trionode reload`: commands to the node that runs on a storage folder."""

from __future__ import annotations

import time

from ..errors import CommandFailed
from . import exits
from .node_client import NodeGone, node_of
from .storage import Config, StoragePath, settings_of

POLL_SECONDS = 0.2
"""Interval at which the number of active downloads is read while the node drains."""


def drain(*, storage_path: StoragePath = None, config: Config = None) -> int:
    """Drain the node on this machine: unregister it, finish its downloads, and end it.

    Returns when the node has ended, or under hypercorn, which ends only by signals, when no download is active.
    """
    storage = settings_of(storage_path, config).storage_path
    with node_of(storage) as node:
        ends = node.call("POST", "/api/service/drain")["ends"]
        before = None
        while True:
            try:
                active = node.call("GET", "/api/status")["active_downloads"]
            except NodeGone:
                print("the node has ended")
                return exits.OK
            except CommandFailed:
                active = before  # it is stopping, or did not answer in time
            if active != before:
                print(f"draining; active downloads: {active}", flush=True)
                before = active
            if not ends and not active:
                print("drained: unregistered, and no download is active; stop the server now")
                return exits.OK
            time.sleep(POLL_SECONDS)


def reload(*, storage_path: StoragePath = None, config: Config = None) -> int:
    """Reload the settings of the node on this machine. Prints what changed and what needs a restart.

    An invalid setting changes nothing, and the exit status is 2.
    """
    storage = settings_of(storage_path, config).storage_path
    with node_of(storage) as node:
        answer = node.call("POST", "/api/service/reload")
    print(f"changed: {', '.join(answer['changed']) or 'nothing'}")
    if answer["needs_restart"]:
        print(f"needs a restart: {', '.join(answer['needs_restart'])}")
    return exits.OK
