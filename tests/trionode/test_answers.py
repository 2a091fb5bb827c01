"""Errors that are no error of ours become answers too."""

from __future__ import annotations

from structlog.testing import capture_logs

from trionode.answers import answer_to


def test_a_disk_that_fails_is_temporary_and_no_bug():
    with capture_logs() as lines:
        status, detail, fields = answer_to(FileNotFoundError(2, "No such file or directory", "/secret"), "/api/status")
    assert (status, "Retry-After" in fields) == (503, True)
    assert "/secret" not in detail
    (line,) = lines
    assert "/secret" in line["why"]
    assert "exc_info" not in line
