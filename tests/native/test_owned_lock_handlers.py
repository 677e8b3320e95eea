"""What a signal's handler may do on a thread that waits for a lock: it must not wait for itself."""

from __future__ import annotations

import threading
import time
from types import FrameType

import pytest

from strandline.native import native
from tests.native.test_owned_lock import (
    PATIENCE,
    Held,
    handling,
    interrupt_main,
    make_lock,
    take_and_give_back,
    try_elsewhere,
)
from tests.support.calls import Call

pytestmark = pytest.mark.skipif(native is None, reason="the functions in C were not built")


def test_a_handler_that_waits_for_the_same_lock() -> None:
    """A handler on a thread that waits gets it first, and then that thread does."""
    lock = make_lock()
    holder, entered = Held(lock), threading.Event()
    got: list[bool] = []

    def handle(_number: int, _frame: FrameType | None) -> None:
        entered.set()
        got.append(lock.acquire(True, PATIENCE / 5))
        if got[-1]:
            lock.release()

    def strike() -> None:
        time.sleep(0.02)
        interrupt_main()
        assert entered.wait(PATIENCE)
        time.sleep(0.05)
        holder.let_go()

    with handling(handle):
        call = Call(strike)
        assert lock.acquire(True, PATIENCE)
        call.answer()
    assert [True] == got
    lock.release()
    assert try_elsewhere(lock)


def test_a_handler_that_waits_for_a_thread() -> None:
    """While a handler runs on a thread that waits, the lock goes to those who can use it."""
    lock = make_lock()
    holder, entered = Held(lock), threading.Event()
    ended: list[bool] = []

    def handle(_number: int, _frame: FrameType | None) -> None:
        entered.set()
        other = Call(take_and_give_back, lock)
        other.wait(PATIENCE / 5)
        ended.append(other.done)

    def strike() -> None:
        time.sleep(0.02)
        interrupt_main()
        assert entered.wait(PATIENCE)
        time.sleep(0.05)
        holder.let_go()

    with handling(handle):
        call = Call(strike)
        assert lock.acquire(True, PATIENCE)
        call.answer()
    assert [True] == ended
    lock.release()
    assert try_elsewhere(lock)
