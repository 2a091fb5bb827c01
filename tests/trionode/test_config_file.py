"""TOML files that cannot be read: the mistake is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trionode.config_file import InvalidFile, read_toml

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xef\xbb\xbfport = 1", "byte order mark (BOM): save it as UTF-8 without BOM"),
        ("port = 1".encode("utf-16"), "UTF-16"),
        ("port = 1".encode("utf-16-le"), "UTF-16"),
        ("# 一二三\nport = 1\nnode_id = 'a'".encode("utf-16-le"), "UTF-16"),
        ("port = 1".encode("utf-16-be"), "UTF-16"),
        (b"port = 1\nnode_id = 'a\0b'", "line 2 of this one has a NUL byte: the file is damaged"),
        (b"port = 1\n" + bytes(4096), "line 2 of this one has a NUL byte"),
        (bytes(512), "line 1 of this one has a NUL byte"),
        (b"PK\3\4\x80\0ab\xff", "line 1 of this one has a NUL byte"),
        ("port = 1\n# 存储\n".encode("gbk"), "line 2 of this one is in another encoding, probably GBK"),
        (b"port = 1\n# \xff", "line 2 of this one is in another encoding: save it as UTF-8"),
        ("port = 1\nhost = “::1”", "line 2 of this one has '“' (LEFT DOUBLE QUOTATION MARK): write \" instead"),
        ('host = "::1”\n', "line 1 of this one has '”' (RIGHT DOUBLE QUOTATION MARK): write \" instead"),
        ('host = "::1”', "line 1 of this one has '”'"),
        ("host = ‘::1’", "(LEFT SINGLE QUOTATION MARK): write ' instead"),
        ("port：1", "line 1 of this one has '：' (FULLWIDTH COLON): write = instead"),
        ("port ＝ 1", "(FULLWIDTH EQUALS SIGN): write = instead"),
        ("port = ８", "(FULLWIDTH DIGIT EIGHT): write 8 instead"),
        ("port\u3000= 1", r"'\u3000' (IDEOGRAPHIC SPACE)"),
        ('host = "“" x  # ：', "Expected newline or end of document after a statement"),
        (
            "port = 1\nmain_server = http://a:1 # x",
            'line 2 of this one has text without quotes: write main_server = "http',
        ),
        ("node_address = 192.168.1.21:8001", 'write node_address = "192.168.1.21:8001"'),
        ("max_bytes = 50G\n", 'write max_bytes = "50G"'),
        ("storage_path = C:\\data", "write storage_path = 'C:\\data'"),
        ("port = 1\nport = 2", "Cannot overwrite a value"),
    ],
)
def test_the_mistake_of_an_editor_is_named(tmp_path: Path, content: str | bytes, sentence: str):
    file = tmp_path / "node.toml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InvalidFile) as caught:
        read_toml(file)
    assert sentence in str(caught.value)
