"""The file systems that are cut: how one is made, how small it may be, how it is mounted.

They are as small as their makers allow, for every image of one is copied. Discards are off:
the block log has no use for them, and a device that offers none is a common one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

KindName: TypeAlias = Literal["ext4", "xfs", "btrfs"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One file system."""

    name: KindName
    size: int
    """Bytes of an image."""
    mkfs: tuple[str, ...]
    """The command that makes it, without the image's path."""
    options: str
    """For mount(2)."""


KINDS: Final[dict[KindName, Kind]] = {
    "ext4": Kind(
        "ext4",
        64 << 20,
        # Blocks and inodes as on a disk of a usual size; a small one gets smaller ones.
        ("mkfs.ext4", "-q", "-F", "-b", "4096", "-I", "256", "-E", "nodiscard"),
        "nodiscard,noinit_itable",
    ),
    "xfs": Kind("xfs", 300 << 20, ("mkfs.xfs", "-q", "-f", "-K"), "nodiscard"),
    "btrfs": Kind("btrfs", 128 << 20, ("mkfs.btrfs", "-q", "-f", "-K"), "nodiscard"),
}
