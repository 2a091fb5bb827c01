"""Tickets of redirects: which are kept, and until when."""

from __future__ import annotations

import pytest

from trionode.delivery.tickets import MAX_TICKETS, Tickets


def test_tickets_are_reported_in_the_order_in_which_they_came():
    tickets = Tickets()
    for name in ("b", "a", "c"):
        tickets.add(name)
    assert tickets.first(2) == ("b", "a")
    assert tickets.first(10) == ("b", "a", "c")


def test_several_requests_with_one_ticket_count_once():
    tickets = Tickets()
    for name in ("a", "b", "a"):
        tickets.add(name)
    assert tickets.first(10) == ("a", "b")


def test_a_ticket_stays_until_it_was_reported():
    tickets = Tickets()
    for name in ("a", "b"):
        tickets.add(name)
    reported = tickets.first(1)
    assert tickets.first(1) == reported, "a heartbeat that was not answered is repeated"
    tickets.add("c")  # comes while the heartbeat is on its way
    tickets.remove(reported)
    assert tickets.first(10) == ("b", "c")
    tickets.remove(reported)  # the answer of a repeated heartbeat
    assert tickets.first(10) == ("b", "c")


@pytest.mark.parametrize("ticket", ["", "a" * 65, "a b", "a\n", "会", "a/b", '"', "\x01", "²"])
def test_what_is_no_ticket_is_not_kept(ticket: str):
    tickets = Tickets()
    tickets.add(ticket)
    assert tickets.first(10) == ()


@pytest.mark.parametrize("ticket", ["a", "a" * 64, "A-Z_09"])
def test_what_the_shim_makes_is_kept(ticket: str):
    tickets = Tickets()
    tickets.add(ticket)
    assert tickets.first(10) == (ticket,)


def test_a_long_absence_of_the_master_does_not_fill_the_memory():
    tickets = Tickets()
    for number in range(MAX_TICKETS + 100):
        tickets.add(str(number))
    assert len(tickets.first(2 * MAX_TICKETS)) == MAX_TICKETS
    tickets.remove(["0"])
    tickets.add("new")
    assert tickets.first(2 * MAX_TICKETS)[-1] == "new"
