"""Two ledgers with a bug each that only a crash shows, and the tests that find it.

Both tests fail, as they should: `pytest -p strandline.testing examples/order_ledger/careless.py`.
"""

from __future__ import annotations

from strandline import Durability
from strandline.testing import Cut, PowerCuts

from .ledger import Ledger


class TwoSteps(Ledger):
    """Takes the goods off the shelf in a write of its own."""

    def place(self, request: str, item: str, count: int, price: int) -> int:
        """Place an order."""
        number = len(self.orders) + 1
        with self.db.batch() as batch:
            batch.table(self.orders).put(number, {"item": item, "count": count, "price": price})
            batch.table(self.requests).put(request, number)
        self.stock[item] = self.stock[item] - count
        return number


class Hasty(Ledger):
    """Does not wait for the disk."""

    def place(self, request: str, item: str, count: int, price: int) -> int:
        """Place an order."""
        number = len(self.orders) + 1
        with self.db.batch(durability=Durability.ASYNC) as batch:
            batch.table(self.orders).put(number, {"item": item, "count": count, "price": price})
            batch.table(self.stock).put(item, self.stock[item] - count)
            batch.table(self.requests).put(request, number)
        return number


def test_goods_are_sold_or_on_the_shelf(power_cuts: PowerCuts) -> None:
    """Fails: a cut between the two writes leaves goods that are sold and on the shelf."""

    def program() -> None:
        ledger = TwoSteps(power_cuts.path)
        ledger.deliver("tea", 10)
        ledger.place("ann", "tea", count=2, price=5)

    def invariant(_: Cut) -> None:
        ledger = TwoSteps(power_cuts.path)
        sold = sum(order["count"] for order in ledger.orders.values())
        left = ledger.stock.get("tea", 0)
        assert sold + left in (0, 10)

    power_cuts.run(program, invariant)


def test_a_confirmed_order_is_there(power_cuts: PowerCuts) -> None:
    """Fails: the customer is told before the order is in the log."""

    def program() -> None:
        ledger = Hasty(power_cuts.path)
        ledger.deliver("tea", 10)
        for request in ("ann", "bob"):
            ledger.place(request, "tea", count=2, price=5)
            power_cuts.acknowledge(request)

    def invariant(cut: Cut) -> None:
        ledger = Hasty(power_cuts.path)
        placed = set(ledger.requests)
        assert placed >= set(cut.acknowledged)

    power_cuts.run(program, invariant)
