"""A shop's orders: what a request placed, what is left in stock, what was taken in all.

Three tables and a counter have to agree at every moment, after a power cut too:

    orders      order number -> item, count, price
    stock       item -> how many are left
    requests    request id -> order number: a customer who asks again gets the same answer
    turnover    the sum of all orders, under one key of the default table
"""

from __future__ import annotations

from pathlib import Path

import strandline


class SoldOutError(Exception):
    """Fewer are left than were ordered."""


class Ledger:
    """The ledger in a directory. One thread writes."""

    def __init__(self, path: Path) -> None:
        self.db = strandline.open(path)
        self.orders = self.db.table("orders", codec="int64/msgpack")
        self.stock = self.db.table("stock", codec="utf-8/msgpack")
        self.requests = self.db.table("requests", codec="utf-8/msgpack")

    def deliver(self, item: str, count: int) -> None:
        """Put goods on the shelf."""
        self.stock[item] = self.stock.get(item, 0) + count

    def place(self, request: str, item: str, count: int, price: int) -> int:
        """Place an order, or find the one that this request placed before; return its number."""
        if request in self.requests:
            return int(self.requests[request])
        left = self.stock.get(item, 0) - count
        if left < 0:
            raise SoldOutError(f"{item}: {count} ordered, {left + count} left")
        number = len(self.orders) + 1
        with self.db.batch() as batch:
            batch.put(b"turnover", b"%d" % (self.turnover() + count * price))
            batch.table(self.orders).put(number, {"item": item, "count": count, "price": price})
            batch.table(self.stock).put(item, left)
            batch.table(self.requests).put(request, number)
        return number

    def turnover(self) -> int:
        """Return what all orders come to."""
        return int(self.db.get(b"turnover", b"0"))

    def close(self) -> None:
        """Close the store."""
        self.db.close()
