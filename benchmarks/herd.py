"""The cold herd: many clients request a package from an empty node whose origin is slow."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.bench import Bench, figures, say
from benchmarks.common import BenchmarkError, in_turn, measure
from benchmarks.goals import Figure, Goal, at_most
from benchmarks.limited_origin import LimitedOrigin
from benchmarks.subjects import (
    BESIDE,
    DEPLOYED,
    DIRECT,
    NODE,
    Subject,
    start_deployed,
    start_master,
    start_nginx,
    start_node,
)

if TYPE_CHECKING:
    from benchmarks.common import Server
    from examples.demo.packages import Package

LINE_BYTES_PER_SECOND = 12.5e6
"""100 Mbit/s."""

NGINX_CACHE = "nginx proxy_cache, lock"

FRESH_SECONDS = (1.05, 1.6)
"""Delay from the node's last request to the appearance of the package. With less, the first client would wait for the
rest of a second, since unknown ids make a node poll once a second; with more, the node would fetch the package before
the clients request it, since it polls every 3 s."""


@dataclass(slots=True)
class Herd:
    """The results of one subject, a value for each round. Times are relative to the origin's own time."""

    last: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    copies: list[float] = field(default_factory=list)
    done: list[int] = field(default_factory=list)


def herd(bench: Bench) -> list[Figure]:
    """Measure the crowd's time relative to that of one client at the origin, and the bytes that the origin sends."""
    plan = bench.plan
    work = f"cold herd: {plan.herd_clients} clients, {plan.herd_megabytes} MB at 100 Mbit/s"
    say(f"{work}: {plan.herd_rounds} rounds ...")
    package = bench.package(plan.herd_megabytes)
    names = [NODE, *([BESIDE] * (bench.beside is not None)), DEPLOYED, NGINX_CACHE]
    found = {name: Herd() for name in names}
    owns: list[float] = []
    for number in range(plan.herd_rounds):
        for name in in_turn(names, number):
            with tempfile.TemporaryDirectory(dir=bench.folder) as folder, ExitStack() as stack:
                own = _once(stack, Path(folder), name, package, bench, found[name])
            if own is None:
                names.remove(name)
                del found[name]
                break
            owns.append(own)
    made = figures(work, "origin alone", ("time for one client", statistics.median(owns), "s"))
    for name, one in found.items():
        goals = {"last client done / origin's own time": at_most(1.1), "copies the origin sent": at_most(1.05)}
        made += _figures(work, name, one, goals if name == NODE else {}, plan.herd_clients)
    return made


def _figures(work: str, name: str, one: Herd, goals: dict[str, Goal], clients: int) -> list[Figure]:
    return figures(
        work,
        name,
        ("last client done / origin's own time", statistics.median(one.last), "ratio"),
        ("first client done / origin's own time", statistics.median(one.first), "ratio"),
        ("copies the origin sent", statistics.median(one.copies), "copies"),
        ("clients done", statistics.median(one.done), f"of {clients}"),
        goals=goals,
    )


def _once(stack: ExitStack, folder: Path, name: str, package: Package, bench: Bench, into: Herd) -> float | None:
    """Run the crowd against a new, empty subject. Return the origin's own time; None: not installed."""
    files = folder / "files"
    files.mkdir()
    master = start_master(stack, folder, files)
    line = stack.enter_context(LimitedOrigin(master.port, LINE_BYTES_PER_SECOND))
    there = files / package.path.name
    there.hardlink_to(package.path)
    own = _own_time(line, master, package)
    there.unlink()
    subject = _start(stack, folder, name, line.port, bench.beside)
    if subject is None:
        return None
    subject.server.wait_up()
    if name in {NODE, BESIDE}:
        _wait_fresh(line)
    there.hardlink_to(package.path)
    before = line.sent
    limit, clients = bench.plan.herd_patience * own, bench.plan.herd_clients
    crowd = measure(subject.server, subject.path, package.size, clients, limit, "--once")
    for server in (subject.server, master):
        server.end()
    finish = crowd["finish"]
    into.done.append(len(finish))
    into.copies.append((line.sent - before) / package.size)
    into.first.append((min(finish) if finish else crowd["seconds"]) / own)
    # A client that has not finished counts with the time limit, which it would have exceeded.
    into.last.append((max(finish) if len(finish) == clients else crowd["seconds"]) / own)
    return own


def _start(stack: ExitStack, folder: Path, name: str, origin_port: int, beside: Path | None) -> Subject | None:
    if name in {NODE, BESIDE}:
        return start_node(stack, folder, origin_port, checkout=None if name == NODE else beside)
    if name == DEPLOYED:
        (folder / "deployed").mkdir()
        return start_deployed(stack, folder, folder / "deployed", origin_port)
    return start_nginx(stack, folder, folder, origin_port=origin_port, name=name)


def _wait_fresh(line: LimitedOrigin) -> None:
    """Wait until the middle between two polls of the node, see `FRESH_SECONDS`."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if FRESH_SECONDS[0] <= time.monotonic() - line.asked_at <= FRESH_SECONDS[1] and line.asked_at:
            return
        time.sleep(0.01)
    raise BenchmarkError("the node sends requests to its master without a pause")


def _own_time(line: LimitedOrigin, master: Server, package: Package) -> float:
    """Return the seconds of one download from the origin itself, over the same line."""
    alone = measure(master, DIRECT, package.size, 1, 120, "--once", port=line.port)
    if not alone["finish"]:
        raise BenchmarkError("the origin does not serve the package")
    return float(alone["finish"][0])
