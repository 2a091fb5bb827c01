"""The routes of downloads, called as a server calls them, under asyncio and Trio."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from master_shim import DirectoryPackages, MasterShim
from master_shim.protocol.chain import predecessors, spread
from store.manifest import Manifest
from tests.support.packages import make_documents, make_package
from tests.support.shim_app import API, DATA, client_of, heartbeat, put

if TYPE_CHECKING:
    pass


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_client_is_redirected_to_a_node_that_holds_the_current_version(tmp_path: Path, backend: str) -> None:
    async def main() -> None:
        old = put(tmp_path, "m.zip", b"old")
        async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
            url = f"{API}/meetings/m/download-package"
            assert (await client.get(url)).content == b"old"
            await heartbeat(client, "n1", {"m": old})
            answer = await client.get(url)
            assert answer.status_code == 302
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["access-control-allow-origin"] == "*"
            where = answer.headers["location"]
            assert re.fullmatch(rf"http://n1:8001{url}\?v={old}&t=[0-9a-f]{{16}}", where)
            new = put(tmp_path, "m.zip", b"new")
            answer = await client.get(url)
            assert (answer.status_code, answer.content) == (200, b"new")
            await heartbeat(client, "n1", {"m": old}, filling=[new])
            assert (await client.get(url)).status_code == 200
            await heartbeat(client, "n1", {"m": new})
            assert f"v={new}&" in (await client.get(url)).headers["location"]

    anyio.run(main, backend=backend)


async def test_a_client_is_sent_to_a_node_by_the_scheme_of_its_last_message(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        url = f"{API}/meetings/m/download-package"
        info = f"{API}/meetings/m/download-nodes-info"
        for scheme in ("https", "http"):
            await heartbeat(client, "n1", {"m": digest}, scheme=scheme)
            target = f"{scheme}://n1:8001{url}"
            for method in ("HEAD", "GET"):
                answer = await client.request(method, url)
                assert answer.headers["location"].partition("?")[0] == target
            assert (await client.get(info)).json() == [{"ip": "n1:8001", "download_url": target}]
        # A scheme that is not known here makes no URL: the master sends the package itself.
        await heartbeat(client, "n1", {"m": digest}, scheme="gopher")
        assert (await client.get(url)).content == DATA


async def test_head_assigns_no_client(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    shim = MasterShim(DirectoryPackages(tmp_path))
    async with client_of(shim) as client:
        url = f"{API}/meetings/m/download-package"
        answer = await client.head(url)
        assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, str(len(DATA)), b"")
        await heartbeat(client, "n1", {"m": digest})
        for _ in range(9):
            answer = await client.head(url)
            assert answer.headers["location"] == f"http://n1:8001{url}?v={digest}"
        await client.head(f"{API}/meetings/m/download-nodes-info")
        assert [node.assigned_units for node in shim.registry.nodes(0)] == [0]


async def test_nodes_info_lists_up_to_three_nodes_or_else_the_master(tmp_path: Path) -> None:
    digest = put(tmp_path, "m 1.zip")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        url = f"{API}/meetings/m%201/download-nodes-info"
        own = "http://master.lan:8000/api/v1/meetings/m%201/download-package"
        assert (await client.get(url)).json() == [{"ip": "master.lan:8000", "download_url": own}]
        for number in range(5):
            await heartbeat(client, f"n{number}", {"m 1": digest})
        entries = (await client.get(url)).json()
        assert len(entries) == 3
        for entry in entries:
            assert set(entry) == {"ip", "download_url"}
            assert entry["download_url"] == f"http://{entry['ip']}/api/v1/meetings/m%201/download-package"
        assert (await client.get(f"{API}/meetings/none/download-nodes-info")).status_code == 404


async def test_behind_a_trusted_proxy_the_url_of_the_master_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "m.zip")
    url = f"{API}/meetings/m/download-nodes-info"
    path = f"{API}/meetings/m/download-package"
    fields = {"Forwarded": "for=10.0.0.7;proto=https;host=meetings.example"}
    for trusted, wanted in (
        (["10.9.9.0/24"], {"ip": "meetings.example:443", "download_url": f"https://meetings.example:443{path}"}),
        ([], {"ip": "master.lan:8000", "download_url": f"http://master.lan:8000{path}"}),
    ):
        async with client_of(MasterShim(DirectoryPackages(tmp_path), trusted_proxies=trusted)) as client:
            assert (await client.get(url, headers=fields)).json() == [wanted]


async def test_clients_behind_a_trusted_proxy_are_told_apart(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    shim = MasterShim(DirectoryPackages(tmp_path), trusted_proxies="10.9.9.9")
    async with client_of(shim) as client:
        await heartbeat(client, "n1", {"m": digest})
        for number in range(4):
            # One request each: no node has failed any of them.
            await client.get(f"{API}/meetings/m/download-package", headers={"X-Forwarded-For": f"10.0.0.{number}"})
        (node,) = shim.registry.nodes(0)
        assert node.failed_clients == set()
        await client.get(f"{API}/meetings/m/download-package", headers={"X-Forwarded-For": "10.0.0.1"})
        assert node.failed_clients == {"10.0.0.1"}


async def test_a_manifest_is_canonical_compressed_and_cacheable(tmp_path: Path) -> None:
    package = make_package(tmp_path / "m.zip", make_documents(30, 20_000))
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        url = f"{API}/meetings/m/manifest"
        plain = await client.get(url, headers={"Accept-Encoding": "identity"})
        manifest = Manifest.from_json(plain.content)
        assert (manifest.digest, manifest.size, manifest.to_json()) == (package.digest, package.size, plain.content)
        assert plain.headers["etag"] == f'"{package.digest}"'
        async with client.stream("GET", url, headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(raw) == plain.content
        for tag in (plain.headers["etag"], answer.headers["etag"]):
            again = await client.get(url, headers={"If-None-Match": tag})
            assert (again.status_code, again.content) == (304, b"")
        assert {"accept-encoding"} == {item.headers["vary"].lower() for item in (plain, answer, again)}
        assert (await client.get(f"{API}/meetings/unknown/manifest")).status_code == 404


async def test_the_nodes_of_a_version(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        url = f"{API}/packages/{digest}/nodes"
        assert (await client.get(url)).json() == []
        await heartbeat(client, "n1", {"m": digest}, filling=[digest])
        await heartbeat(client, "n2", {}, filling=[digest], scheme="https")
        await heartbeat(client, "n3", {})
        await heartbeat(client, "n4", {}, protocol=0, active_meetings=[{"id": "m", "title": ""}], synced_meetings=["m"])
        await heartbeat(client, "n5", {"m": digest}, load={"draining": True})
        await heartbeat(client, "n6", {"m": digest}, address="nowhere")
        everyone = [
            {"node_id": "n1", "address": "n1:8001", "held": True, "filling": False, "scheme": "http"},
            {"node_id": "n2", "address": "n2:8001", "held": False, "filling": True, "scheme": "https"},
            {"node_id": "n3", "address": "n3:8001", "held": False, "filling": False, "scheme": "http"},
        ]
        assert (await client.get(url)).json() == everyone
        assert (await client.get(f"{API}/packages/x/nodes")).status_code == 404


async def test_a_node_that_asks_is_told_the_nodes_that_it_can_fetch_from(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    names = [f"n{number}" for number in range(9)]
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        url = f"{API}/packages/{digest}/nodes"
        for name in names:
            await heartbeat(client, name, {"m": digest} if name in names[:3] else {}, filling=[digest])
        for asker in (*names, "it has sent no heartbeat yet", "董事会 &=%", "\x00", "n" * 9_000):
            told = (await client.get(url, params={"node": asker})).json()
            wanted = spread(digest, asker, names[:3])
            assert [node["node_id"] for node in told if node["held"]] == wanted
            assert [node["node_id"] for node in told] == [*wanted, *predecessors(digest, asker, names[3:])]
        for query in ("node=%ff", "node=%ed%a0%80", "node=%00%", "node=n0&node=n1", "&&==&node", "node="):
            assert (await client.get(f"{url}?{query}")).status_code == 200
        assert len((await client.get(f"{url}?node=&v=1")).json()) == len(names)
        assert (await client.get(f"{API}/packages/x/nodes?node=n1")).status_code == 404


async def test_a_package_is_served_with_ranges_and_conditions(tmp_path: Path) -> None:
    digest = put(tmp_path, "m.zip")
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        for url in (f"{API}/meetings/m/download-package-direct", f"{API}/packages/{digest}"):
            answer = await client.get(url)
            assert (answer.status_code, answer.content) == (200, DATA)
            assert answer.headers["etag"] == f'"{digest}"'
            assert answer.headers["accept-ranges"] == "bytes"
            assert answer.headers["content-length"] == str(len(DATA))
            assert answer.headers["content-type"] == "application/zip"
            answer = await client.get(url, headers={"Range": "bytes=1000-1999"})
            assert (answer.status_code, answer.content) == (206, DATA[1000:2000])
            assert answer.headers["content-range"] == f"bytes 1000-1999/{len(DATA)}"
            assert answer.headers["content-length"] == "1000"
            answer = await client.get(url, headers={"Range": f"bytes={len(DATA)}-"})
            assert (answer.status_code, list(answer.json())) == (416, ["detail"])
            assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
            answer = await client.get(url, headers={"Range": "bytes=-9", "If-Range": '"other"'})
            assert (answer.status_code, len(answer.content)) == (200, len(DATA))
            answer = await client.get(url, headers={"If-None-Match": f'W/"{digest}"'})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", f'"{digest}"')
            answer = await client.head(url, headers={"Range": "bytes=0-0"})
            assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(DATA)))
        assert "immutable" in answer.headers["cache-control"]
        answer = await client.get(f"{API}/meetings/m/download-package-direct")
        assert answer.headers["content-disposition"] == 'attachment; filename="meeting_m_pdfs.zip"'


async def test_a_replaced_package_is_not_found_by_its_old_digest(tmp_path: Path) -> None:
    old = put(tmp_path, "m.zip", b"old" * 1000)
    async with client_of(MasterShim(DirectoryPackages(tmp_path))) as client:
        token = (await client.get(f"{API}/meetings/status/token")).json()["id"]
        assert (await client.get(f"{API}/packages/{old}")).status_code == 200
        new = put(tmp_path, "m.zip", b"new" * 1000)
        answer = await client.get(f"{API}/packages/{old}")
        assert answer.status_code == 404
        assert set(answer.json()) == {"detail"}
        # Found by its new digest although its manifest was not requested before.
        assert (await client.get(f"{API}/packages/{new}")).content == b"new" * 1000
        assert (await client.get(f"{API}/meetings/status/token")).json()["id"] != token
        assert (await client.get(f"{API}/packages/{'0' * 64}")).status_code == 404
        assert (await client.get(f"{API}/packages/nonsense")).status_code == 404
