"""The ledger with its power cut at every point.

pytest -p strandline.testing examples/order_ledger
"""

from __future__ import annotations

from strandline.testing import Cut, PowerCuts

from .ledger import Ledger

DELIVERED = 10


def test_the_books_balance(power_cuts: PowerCuts) -> None:
    """After any crash: no order that was confirmed is lost, none counts twice, sums agree."""

    def program() -> None:
        ledger = Ledger(power_cuts.path)
        ledger.deliver("tea", DELIVERED)
        power_cuts.acknowledge("delivery")
        for request in ("ann", "bob", "cat"):
            ledger.place(request, "tea", count=2, price=5)
            power_cuts.acknowledge(request)
        ledger.close()

    def invariant(cut: Cut) -> None:
        ledger = Ledger(power_cuts.path)
        confirmed = [request for request in cut.acknowledged if request != "delivery"]
        assert all(request in ledger.requests for request in confirmed)
        check_sums(ledger, delivered="delivery" in cut.acknowledged)
        for request in confirmed:
            ledger.place(request, "tea", count=2, price=5)  # a customer asks again
        check_sums(ledger, delivered="delivery" in cut.acknowledged)

    power_cuts.run(program, invariant)


def check_sums(ledger: Ledger, *, delivered: bool) -> None:
    """Hold stock and turnover against the orders."""
    orders = list(ledger.orders.values())
    assert len(ledger.requests) == len(orders)
    assert ledger.turnover() == sum(order["count"] * order["price"] for order in orders)
    sold = sum(order["count"] for order in orders)
    assert delivered or orders == []
    assert ledger.stock.get("tea", 0) + sold in ((DELIVERED,) if delivered else (0, DELIVERED))
