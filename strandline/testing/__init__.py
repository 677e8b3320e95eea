"""Power cuts for the code of those who embed strandline: a pytest plugin.

    pytest -p strandline.testing             or addopts = "-p strandline.testing"

    def test_no_order_is_lost(power_cuts):
        def program():
            book = OrderBook(power_cuts.path)        # calls strandline.open, somewhere deep inside
            for name in ("first", "second"):
                book.place(name)
                power_cuts.acknowledge(name)         # where the customer is told

        def invariant(cut):
            book = OrderBook(power_cuts.path)        # recovers
            for name in cut.acknowledged:
                assert name in book

        power_cuts.run(program, invariant)

The plugin is asked for, and does not load by itself: whoever only uses strandline should not
have its options in every pytest. docs/testing-your-code.md is the guide.
"""

from strandline.testing.cut import Cut
from strandline.testing.plugin import power_cuts, pytest_addoption, pytest_terminal_summary
from strandline.testing.power_cuts import PowerCuts

__all__ = ["Cut", "PowerCuts", "power_cuts", "pytest_addoption", "pytest_terminal_summary"]
