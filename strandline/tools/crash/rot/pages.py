"""Which page of LMDB's data file is what, found by walking its trees as bytes.

    page     offset 10: flags (u16); 12: end of the pointers (u16), or how many pages a long
             value takes (u32); 16: pointers (u16 each) to nodes
    node     lo, hi, flags, key length (u16 each), key, data
             of a branch lo, hi and flags are the page below; of a leaf lo and hi are the
             data's length, flag 1 says that the data is the page of a long value, flag 2
             that it is another tree's description
    tree     40: the root's page (u64), in a description of 48 bytes
    meta     40: the tree of free pages, 88: the main tree, 144: transaction id

Only sound files are walked: the specimens before they are damaged.
"""

from __future__ import annotations

import struct
from typing import Final

META, BRANCH, LEAF, OVERFLOW, FREE_LIST, UNUSED = (
    "meta page", "branch page", "leaf page", "overflow page", "free list", "unused page",
)  # fmt: skip

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_NODE: Final = struct.Struct("<4H")
_PAGE_SIZE_AT: Final = 40
_FREE_TREE_AT: Final = 40
_MAIN_TREE_AT: Final = 88
_ROOT_AT: Final = 40
_TRANSACTION_AT: Final = 144
_HEAD_BYTES: Final = 16
_IS_BRANCH: Final = 0x01
_LONG_VALUE: Final = 0x01
_TREE: Final = 0x02
_NO_PAGE: Final = (1 << 64) - 1


def page_bytes_of(data: bytes) -> int:
    """Return the page size that the first meta page states."""
    return int(_U32.unpack_from(data, _PAGE_SIZE_AT)[0])


def kinds_of_pages(data: bytes) -> list[str]:
    """Return the kind of every page of a sound data file, by number."""
    return _Walk(data).run()


class _Walk:
    """The state of one walk."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.page_bytes = page_bytes_of(data)
        self.kinds = [UNUSED] * (len(data) // self.page_bytes)

    def run(self) -> list[str]:
        """Mark what the newer meta page leads to."""
        metas = [0, self.page_bytes]
        newest = max(metas, key=lambda at: _U64.unpack_from(self.data, at + _TRANSACTION_AT)[0])
        self.kinds[0] = self.kinds[1] = META
        self._tree(newest + _FREE_TREE_AT, FREE_LIST)
        self._tree(newest + _MAIN_TREE_AT, None)
        return self.kinds

    def _tree(self, description: int, kind: str | None) -> None:
        root = _U64.unpack_from(self.data, description + _ROOT_AT)[0]
        if root != _NO_PAGE:
            self._page(root, kind)

    def _page(self, number: int, kind: str | None) -> None:
        at = number * self.page_bytes
        branch = bool(_U16.unpack_from(self.data, at + 10)[0] & _IS_BRANCH)
        self.kinds[number] = kind or (BRANCH if branch else LEAF)
        pointers = (_U16.unpack_from(self.data, at + 12)[0] - _HEAD_BYTES) // 2
        for index in range(pointers):
            node = at + _U16.unpack_from(self.data, at + _HEAD_BYTES + 2 * index)[0]
            low, high, flags, key_bytes = _NODE.unpack_from(self.data, node)
            if branch:
                self._page(low | high << 16 | flags << 32, kind)
                continue
            below = node + _NODE.size + key_bytes
            if flags & _LONG_VALUE:
                self._long_value(_U64.unpack_from(self.data, below)[0])
            elif flags & _TREE:
                self._tree(below, kind)

    def _long_value(self, number: int) -> None:
        count = _U32.unpack_from(self.data, number * self.page_bytes + 12)[0]
        self.kinds[number : number + count] = [OVERFLOW] * count
