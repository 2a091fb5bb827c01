"""Packages over HTTP, by clients of a running node and master: ranges, conditions, caching, names."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import pytest
import trio

from tests.support.masters import ShimMaster
from tests.support.multiparts import parse_multipart
from tests.support.nodes import STARTS, digest_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.nodes import OurNode, Start
    from tests.support.packages import Package
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode


@pytest.fixture
def master(spawn: Spawner, folder: Path, package: Package) -> ShimMaster:
    return ShimMaster(spawn, folder)


@pytest.fixture
async def node(master: ShimMaster, start_node: StartNode) -> OurNode:
    node = start_node(master.url)
    await node.until_synced("m1")
    return node


def check_parts(answer: httpx.Response, content: bytes, expected: list[tuple[int, int]]) -> None:
    assert answer.status_code == 206
    assert "content-range" not in answer.headers
    assert int(answer.headers["content-length"]) == len(answer.content)
    parts = parse_multipart(answer.headers["content-type"], answer.content)
    assert [fields["content-range"] for fields, _ in parts] == [
        f"bytes {start}-{stop - 1}/{len(content)}" for start, stop in expected
    ]
    assert [data for _, data in parts] == [content[start:stop] for start, stop in expected]


@pytest.mark.parametrize("how", STARTS)
async def test_several_ranges_are_sent_as_multipart_from_every_server(
    master: ShimMaster, start_node: StartNode, how: Start
):
    node = start_node(master.url, how=how)
    await node.until_synced("m1")
    whole = await node.download("m1")
    size = len(whole.content)
    text = f"bytes=-1000, 0-9, 500000-1099999, 100-100,{size}-, 600000-700000"
    answer = await node.download("m1", headers={"Range": text})
    # Ranges that overlap or almost touch are merged.
    check_parts(answer, whole.content, [(size - 1000, size), (0, 101), (500000, 1100000)])
    again = await node.download("m1", headers={"Range": text, "If-Range": whole.headers["etag"]})
    assert again.content == answer.content
    other = await node.download("m1", headers={"Range": text, "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, whole.content)


async def test_ranges_conditions_and_head(node: OurNode):
    whole = await node.download("m1")
    etag, size = whole.headers["etag"], len(whole.content)
    part = await node.download("m1", headers={"Range": f"bytes={size - 10}-"})
    assert (part.status_code, part.content) == (206, whole.content[-10:])
    assert part.headers["content-range"] == f"bytes {size - 10}-{size - 1}/{size}"
    beyond = await node.download("m1", headers={"Range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    assert list(beyond.json()) == ["detail"]
    known = await node.download("m1", headers={"If-None-Match": etag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)
    exact = await node.download("m1", params={"v": etag.strip('"')})
    assert (exact.status_code, exact.content) == (200, whole.content)
    assert "immutable" in exact.headers["cache-control"]
    async with httpx.AsyncClient(trust_env=False) as client:
        head = await client.head(node.package_url("m1"))
    assert (head.status_code, head.content) == (200, b"")
    same = {"content-length", "etag", "accept-ranges", "content-type", "content-disposition", "cache-control"}
    assert {name: head.headers[name] for name in same} == {name: whole.headers[name] for name in same}
    assert (await node.status())["active_downloads"] == 0


async def test_the_master_sends_the_same_parts(master: ShimMaster):
    path = "/api/v1/meetings/m1/download-package-direct"
    content = master.get(path).content
    answer = master.get(path, headers={"Range": "bytes=0-9,300000-300099,-1"})
    check_parts(answer, content, [(0, 10), (300000, 300100), (len(content) - 1, len(content))])


async def test_the_master_sends_last_modified_and_a_node_does_not(master: ShimMaster, node: OurNode):
    path = "/api/v1/meetings/m1/download-package-direct"
    whole = master.get(path)
    modified = whole.headers["last-modified"]
    assert master.get(path, headers={"If-Modified-Since": modified}).status_code == 304
    long_ago = "Sat, 24 Nov 2001 10:00:00 GMT"
    assert master.get(path, headers={"If-Modified-Since": long_ago}).status_code == 200
    assert master.get(path, headers={"If-Unmodified-Since": long_ago}).status_code == 412
    # Nodes have no common clock: see delivery/service.py.
    sent = await node.download("m1", headers={"If-Modified-Since": modified, "If-Unmodified-Since": long_ago})
    assert (sent.status_code, sent.content) == (200, whole.content)
    assert "last-modified" not in sent.headers


async def test_a_request_for_too_many_ranges_gets_the_whole_package(node: OurNode):
    whole = await node.download("m1")
    many = ",".join(f"{n * 1000}-{n * 1000}" for n in range(1000))
    answer = await node.download("m1", headers={"Range": f"bytes={many}"})
    assert (answer.status_code, answer.content) == (200, whole.content)


async def test_412_416_and_304_have_the_headers_that_describe_them(node: OurNode):
    whole = await node.download("m1")
    etag = whole.headers["etag"]
    failed = await node.download("m1", headers={"If-Match": '"another"', "Range": "bytes=0-1"})
    assert (failed.status_code, failed.headers["etag"], list(failed.json())) == (412, etag, ["detail"])
    beyond = await node.download("m1", headers={"Range": "bytes=999999999-, -0"})
    assert (beyond.status_code, list(beyond.json())) == (416, ["detail"])
    assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"
    known = await node.download("m1", headers={"If-None-Match": f'"x", W/{etag}', "Range": "bytes=0-1"})
    assert (known.status_code, known.content) == (304, b"")
    assert known.headers["cache-control"] == whole.headers["cache-control"]
    assert not {"content-type", "content-range", "content-disposition"} & known.headers.keys()
    for answer in (failed, beyond, await node.download("unknown")):
        assert answer.headers["cache-control"] == "no-store"


async def test_head_has_the_headers_of_get(node: OurNode):
    whole = await node.download("m1")
    digest = whole.headers["etag"].strip('"')
    varying = {"date", "transfer-encoding"}
    async with httpx.AsyncClient(trust_env=False) as client:
        for params in ({}, {"v": digest}):
            for fields in ({}, {"If-None-Match": f'"{digest}"'}, {"If-Match": '"another"'}):
                got = await client.get(node.package_url("m1"), params=params, headers=fields)
                head = await client.head(node.package_url("m1"), params=params, headers=fields)
                assert (head.status_code, head.content) == (got.status_code, b"")
                assert {k: v for k, v in head.headers.items() if k not in varying} == {
                    k: v for k, v in got.headers.items() if k not in varying
                }
        part = await client.head(node.package_url("m1"), headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.headers["content-length"]) == (200, str(len(whole.content)))


async def test_repr_digest_is_sent_on_request(node: OurNode):
    whole = await node.download("m1")
    expected = f"sha-256=:{base64.b64encode(hashlib.sha256(whole.content).digest()).decode()}:"
    for preference in ("sha-256=10", "sha-512=3, sha-256=1", "sha-256=0, sha-256=1"):
        answers = [
            await node.download("m1", headers={"Want-Repr-Digest": preference, **more})
            for more in ({}, {"Range": "bytes=0-9"})
        ]
        assert [answer.headers["repr-digest"] for answer in answers] == [expected] * 2
    for preference in ("sha-512=10", "sha-256=0", "blake3=1", "x-sha-256=1", ""):
        answer = await node.download("m1", headers={"Want-Repr-Digest": preference})
        assert "repr-digest" not in answer.headers
    assert "repr-digest" not in whole.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_other_methods_are_answered_405_with_allow(node: OurNode, method: str):
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.request(method, node.package_url("m1"))
    assert answer.status_code == 405
    assert {name.strip() for name in answer.headers["allow"].split(",")} == {"GET", "HEAD", "OPTIONS"}


@pytest.mark.parametrize("path", ["/api/v1/meetings/m1/download-package", "/health"])
async def test_options_has_the_methods_and_a_preflight_gets_what_it_asks_for(node: OurNode, path: str):
    preflight = {
        "Origin": "http://tablet",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization, x-any",
        "Access-Control-Request-Private-Network": "true",
    }
    async with httpx.AsyncClient(trust_env=False, base_url=node.url) as client:
        answer = await client.options(path, headers=preflight)
        plain = [await client.options(path), await client.get(path, headers=preflight)]
    assert "content-length" not in answer.headers, "RFC 9110, 8.6"
    assert "content-type" not in answer.headers
    assert (answer.status_code, answer.content) == (204, b"")
    assert {name.strip() for name in answer.headers["allow"].split(",")} == {"GET", "HEAD", "OPTIONS"}
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == answer.headers["allow"]
    assert answer.headers["access-control-allow-headers"] == "authorization, x-any"
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert answer.headers["access-control-max-age"] == "600"
    for other in plain:
        cors = {name for name in other.headers if name.startswith("access-control-")}
        assert cors == {"access-control-allow-origin", "access-control-expose-headers"}


PATH = "/api/v1/meetings/m1/download-package"


async def ask_raw(node: OurNode, head: str, body: bytes = b"") -> bytes:
    """Send a request literally, and return everything that is received until the node closes."""
    stream = await trio.open_tcp_stream("127.0.0.1", node.port)
    with trio.fail_after(20):
        async with stream:
            await stream.send_all(f"{head}\r\nHost: x\r\nConnection: close\r\n".encode() + body)
            return b"".join([part async for part in stream])


@pytest.mark.parametrize("how", STARTS)
async def test_a_request_body_delays_neither_the_answer_nor_its_end(
    master: ShimMaster, package: Package, start_node: StartNode, how: Start
):
    node = start_node(master.url, how=how)
    await node.until_synced("m1")
    # More pieces than a server's queue holds, which is 10.
    chunks = b"Transfer-Encoding: chunked\r\n\r\n" + 30 * b"1\r\na\r\n" + b"0\r\n\r\n"
    answer = await ask_raw(node, f"GET {PATH} HTTP/1.1", chunks)
    assert answer.partition(b"\r\n\r\n")[2] == package.path.read_bytes()

    async def free_again() -> bool:
        return (await node.status())["active_downloads"] == 0

    await eventually(free_again, within=20)


async def test_an_absolute_request_target_is_understood(node: OurNode, package: Package):
    answer = await ask_raw(node, f"GET http://127.0.0.1:{node.port}{PATH} HTTP/1.1", b"\r\n")
    assert answer.partition(b"\r\n\r\n")[2] == package.path.read_bytes()


async def test_conditions_in_repeated_fields_are_one_list(node: OurNode):
    etag = (await node.download("m1")).headers["etag"]
    lines = [("If-None-Match", '"another"'), ("If-None-Match", etag)]
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(node.package_url("m1"), headers=lines)
    assert answer.status_code == 304


async def test_an_invalid_version_is_refused_and_a_hostile_query_changes_nothing(node: OurNode):
    whole = await node.download("m1")
    digest = whole.headers["etag"].strip('"')
    async with httpx.AsyncClient(trust_env=False) as client:
        for query in ("v=", "v=../x", f"v={digest.upper()}", f"v={digest}%0a", f"v=x&v={digest}"):
            answer = await client.get(f"{node.package_url('m1')}?{query}")
            assert (answer.status_code, list(answer.json())) == (400, ["detail"]), query
        for query in (f"v={digest}&v=x", f"V=x&v={digest}", f"v={digest}&%ff=%00", "&&=&t", "w=1"):
            answer = await client.get(f"{node.package_url('m1')}?{query}")
            assert (answer.status_code, answer.content) == (200, whole.content), query


async def test_a_chinese_meeting_id_is_in_the_name_of_the_file(
    folder: Path, master: ShimMaster, package: Package, start_node: StartNode
):
    (folder / "预算会议.zip").write_bytes(package.path.read_bytes())
    node = start_node(master.url)
    await node.until_synced("预算会议")
    answer = await node.download(quote("预算会议"))
    assert answer.status_code == 200
    name = quote("meeting_预算会议.zip", safe="")
    assert answer.headers["content-disposition"] == (
        f"attachment; filename=\"meeting_____.zip\"; filename*=UTF-8''{name}"
    )


async def test_a_decomposed_meeting_id_is_found(
    folder: Path, master: ShimMaster, package: Package, start_node: StartNode
):
    (folder / "café.zip").write_bytes(package.path.read_bytes())
    node = start_node(master.url)
    await node.until_synced("café")
    for url in (node.url, master.url):
        answer = httpx.get(f"{url}/api/v1/meetings/cafe%CC%81/download-package", follow_redirects=True, trust_env=False)
        assert (answer.status_code, answer.content) == (200, package.path.read_bytes())


async def test_bytes_that_changed_on_disk_while_the_node_was_off_are_not_served(
    node: OurNode, master: ShimMaster, start_node: StartNode
):
    right = (await node.download("m1")).content
    node.process.stop()
    (stored,) = (node.storage / "packages").glob("*.zip")
    stored.chmod(0o644)
    with stored.open("r+b") as file:
        file.seek(len(right) // 2)
        file.write(b"flipped!")
    again = start_node(master.url, storage=node.storage)
    await again.until_synced("m1")
    assert digest_of((await again.download("m1")).content) == digest_of(right)
