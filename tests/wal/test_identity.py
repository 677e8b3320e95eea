"""IDENTITY: the codec, damage of every kind, and atomic replacement."""

from __future__ import annotations

import errno
import os
import random
import struct
from pathlib import Path

import pytest

from strandline.errors import ForeignStoreError, StoreCorruptionError
from strandline.tools.crash.simulation.disk import SimulatedDisk
from strandline.tools.crash.simulation.faults import fail
from strandline.wal.checksum import portable_crc32c
from strandline.wal.identity import (
    IDENTITY_BYTES,
    Identity,
    decode_identity,
    encode_identity,
    read_identity,
    write_identity,
)
from strandline.wal.real_disk import RealDisk
from tests.support.fault_disk import FaultDisk

OLD = Identity(bytes(range(16)), 7, 1 << 28)
NEW = Identity(bytes(range(16)), 8, 1 << 29)
PATH = "/data/IDENTITY"


def with_crc(body: bytes) -> bytes:
    """Return a record with a CRC computed by the independent implementation."""
    return body + struct.pack("<I", portable_crc32c(body))


@pytest.fixture
def disk() -> SimulatedDisk:
    """A disk with the directory /data, and OLD in it, all durable."""
    disk = SimulatedDisk()
    disk.mkdir("/data")
    write_identity(disk, "/data", OLD)
    return disk.crash("all")


def put(disk: SimulatedDisk, data: bytes) -> None:
    """Replace the file's content."""
    disk.unlink(PATH)
    file = disk.open(PATH, "create")
    file.pwrite(data, 0)
    file.close()


def test_the_layout_is_the_documented_one() -> None:
    """The 52 bytes are those that the module describes, checksum by another library."""
    body = b"STRANDID" + struct.pack("<II16sQQ", 1, 52, OLD.uuid, 7, 1 << 28)
    assert encode_identity(OLD) == with_crc(body)
    assert len(encode_identity(OLD)) == IDENTITY_BYTES == 52


@pytest.mark.parametrize("value", [0, 1, (1 << 64) - 1])
def test_every_value_comes_back(disk: SimulatedDisk, value: int) -> None:
    """Fields keep their values up to both ends of their range."""
    identity = Identity(b"\xff" * 16, value, value)
    write_identity(disk, "/data", identity)
    assert read_identity(disk, "/data") == identity


@pytest.mark.parametrize(
    "identity",
    [OLD._replace(uuid=b"short"), OLD._replace(epoch=-1), OLD._replace(lsn_ceiling=1 << 64)],
)
def test_values_out_of_range_are_refused(disk: SimulatedDisk, identity: Identity) -> None:
    """A value that the record cannot hold is refused, and the old record stands."""
    with pytest.raises(ValueError, match="expected"):
        write_identity(disk, "/data", identity)
    assert read_identity(disk, "/data") == OLD


def test_a_missing_identity_is_not_damage(disk: SimulatedDisk) -> None:
    """FileNotFoundError tells a directory that was never a store from a damaged one."""
    disk.unlink(PATH)
    with pytest.raises(FileNotFoundError):
        read_identity(disk, "/data")


def test_every_flipped_bit_is_noticed() -> None:
    """No single bit changes what is read; each is damage."""
    block = encode_identity(OLD)
    for bit in range(len(block) * 8):
        damaged = bytearray(block)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StoreCorruptionError):
            decode_identity(bytes(damaged), PATH)


def test_every_changed_byte_is_noticed() -> None:
    """No single byte, of any value, changes what is read; each is damage."""
    block = encode_identity(OLD)
    for at in range(len(block)):
        for value in range(256):
            if value != block[at]:
                with pytest.raises(StoreCorruptionError):
                    decode_identity(block[:at] + bytes((value,)) + block[at + 1 :], PATH)


def test_every_length_but_the_right_one_is_noticed(disk: SimulatedDisk) -> None:
    """A record that was cut, to nothing too, or that goes on too long, is damage."""
    block = encode_identity(OLD)
    longer = [block + bytes(extra) for extra in (1, 8, 4096, 100_000)]
    for damaged in [block[:length] for length in range(len(block))] + longer:
        put(disk, damaged)
        with pytest.raises(StoreCorruptionError, match=r"/data/IDENTITY: damaged: offset"):
            read_identity(disk, "/data")


@pytest.mark.parametrize("size", [1, 52, 512])
def test_zeros_are_damage(size: int) -> None:
    """A sector that came back empty is a damaged store, not somebody else's file."""
    with pytest.raises(StoreCorruptionError, match="offset 0: expected magic"):
        decode_identity(bytes(size), PATH)


def test_a_lost_magic_is_damage() -> None:
    """If all but the magic verifies, it was a store's, whatever the magic reads now."""
    with pytest.raises(StoreCorruptionError, match="offset 0: expected magic"):
        decode_identity(b"XXXXXXXX" + encode_identity(OLD)[8:], PATH)


def test_random_damage_never_gives_a_value() -> None:
    """Whatever is done to a record, it raises one of the two errors or reads as it was."""
    rng = random.Random(1)
    block = encode_identity(OLD)
    for _ in range(3000):
        damaged = bytearray(block)
        for _ in range(rng.randint(1, 12)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        del damaged[rng.choice((52, 52, rng.randint(0, 52))) :]
        if damaged != block:
            with pytest.raises((StoreCorruptionError, ForeignStoreError)):
                decode_identity(bytes(damaged), PATH)


@pytest.mark.parametrize("length", [20, 36, 52, 64, 4096])
def test_a_newer_version_is_named(length: int) -> None:
    """A whole record of another version, of any length, is refused as such."""
    body = b"STRANDID" + struct.pack("<II", 2, length)
    with pytest.raises(ForeignStoreError, match=r"expected format version 1, found 2 at offset 8"):
        decode_identity(with_crc(body.ljust(length - 4, b"\7")), PATH)


def test_a_length_that_is_not_the_files_is_damage() -> None:
    """Not even a valid CRC at the file's end makes up for a length that does not fit."""
    for version in (1, 2):
        for stated in (0, 16, 52, 68, 1 << 31):
            body = b"STRANDID" + struct.pack("<II", version, stated)
            with pytest.raises(StoreCorruptionError, match=f"expected {stated} bytes"):
                decode_identity(with_crc(body.ljust(60, b"\7")), PATH)


def test_a_version_of_another_length_is_damage() -> None:
    """Version 1 has 52 bytes, and no valid CRC makes another length one."""
    body = b"STRANDID" + struct.pack("<II", 1, 64)
    with pytest.raises(StoreCorruptionError, match="expected length 52, found 64"):
        decode_identity(with_crc(body.ljust(60, b"\0")), PATH)


@pytest.mark.parametrize(
    "content",
    [b"#!/bin/sh\nexit 0\n", b"PK", with_crc(b"OTHERKV!" + encode_identity(OLD)[8:-4])],
)
def test_a_foreign_file_is_not_called_damaged(content: bytes) -> None:
    """Nobody is sent to repair what never was a store."""
    with pytest.raises(ForeignStoreError, match="offset 0: expected magic"):
        decode_identity(content, PATH)


def test_a_directory_or_a_link_is_foreign(tmp_path: Path) -> None:
    """Only a regular file is read."""
    disk = RealDisk()
    (tmp_path / "IDENTITY").mkdir()
    with pytest.raises(ForeignStoreError, match="found a directory"):
        read_identity(disk, str(tmp_path))
    (tmp_path / "IDENTITY").rmdir()
    write_identity(disk, str(tmp_path), OLD)
    (tmp_path / "IDENTITY").rename(tmp_path / "elsewhere")
    (tmp_path / "IDENTITY").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ForeignStoreError, match="found a link"):
        read_identity(disk, str(tmp_path))


def test_messages_name_file_offset_and_next_step(disk: SimulatedDisk) -> None:
    """A damaged record says where, what was expected, what was found, and what to run."""
    block = bytearray(encode_identity(OLD))
    block[20] ^= 1
    put(disk, bytes(block))
    with pytest.raises(StoreCorruptionError) as caught:
        read_identity(disk, "/data")
    message = str(caught.value)
    for part in (PATH, "offset 48", "expected CRC-32C 0x", "found 0x", "strandline check /data"):
        assert part in message


def test_replacing_takes_the_documented_steps(disk: SimulatedDisk) -> None:
    """Write, sync, read back, rename, sync the directory: in this order."""
    write_identity(disk, "/data", NEW)
    steps = [(op.op, op.path) for op in disk.operations]
    assert steps == [
        ("kind", PATH + ".new"),
        ("create", PATH + ".new"),
        ("pwrite", PATH + ".new"),
        ("fdatasync", PATH + ".new"),
        ("pread", PATH + ".new"),
        ("close", PATH + ".new"),
        ("rename", PATH),
        ("sync_directory", "/data"),
    ]
    assert disk.pending() == 0


def test_a_crash_at_any_step_leaves_the_old_or_the_new(disk: SimulatedDisk) -> None:
    """Before every operation, under every choice of what survives, one of the two is read."""
    images: list[SimulatedDisk] = []

    def cut(op: str, path: str) -> None:
        images.extend(disk.crash(kept) for kept in range(disk.pending() + 1))
        images.extend(disk.crash(random.Random(seed)) for seed in range(20))

    disk.faults = cut
    write_identity(disk, "/data", NEW)
    found = {read_identity(image, "/data") for image in images}
    assert found == {OLD, NEW}
    assert read_identity(disk.crash("none"), "/data") == NEW
    for image in images:
        write_identity(image, "/data", NEW)
        assert read_identity(image.crash("none"), "/data") == NEW


def test_a_first_identity_is_there_or_not(disk: SimulatedDisk) -> None:
    """With no old record, a crash leaves none or the whole new one, never a part."""
    disk.unlink(PATH)
    disk.sync_directory("/data")
    images: list[SimulatedDisk] = []

    def cut(op: str, path: str) -> None:
        images.extend(disk.crash(random.Random(seed)) for seed in range(20))

    disk.faults = cut
    write_identity(disk, "/data", NEW)
    for image in images:
        if image.kind(PATH) == "file":
            assert read_identity(image, "/data") == NEW


OPERATIONS = ("kind", "create", "pwrite", "fdatasync", "pread", "rename")


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_step_leaves_the_old_record(tmp_path: Path, op: str, code: int) -> None:
    """Whatever fails before the rename, the error comes out and nothing is left behind."""
    disk = FaultDisk()
    write_identity(disk, str(tmp_path), OLD)
    disk.faults = fail(op, OSError(code, "planted"))
    with pytest.raises(OSError, match="planted"):
        write_identity(disk, str(tmp_path), NEW)
    assert read_identity(disk, str(tmp_path)) == OLD
    assert os.listdir(tmp_path) == ["IDENTITY"]
    write_identity(disk, str(tmp_path), NEW)
    assert read_identity(disk, str(tmp_path)) == NEW


def test_what_close_says_is_of_no_account(tmp_path: Path) -> None:
    """The record is synced and read back by then, and the descriptor is gone either way."""
    disk = FaultDisk()
    disk.faults = fail("close", OSError(errno.EIO, "planted"), times=9)
    write_identity(disk, str(tmp_path), OLD)
    assert read_identity(disk, str(tmp_path)) == OLD


def test_short_writes_are_continued(disk: SimulatedDisk) -> None:
    """A record that the disk takes in pieces is whole."""
    disk.faults = fail("pwrite", ("short", 5), times=6)
    write_identity(disk, "/data", NEW)
    assert read_identity(disk, "/data") == NEW
    disk.faults = fail("pwrite", ("short", 0), times=1000)
    with pytest.raises(OSError, match="takes no bytes"):
        write_identity(disk, "/data", OLD)
    assert read_identity(disk, "/data") == NEW


def test_what_does_not_read_back_replaces_nothing(disk: SimulatedDisk) -> None:
    """A disk that loses bytes between write and read is found out before the rename."""
    disk.faults = fail("pread", ("short", 10))
    with pytest.raises(StoreCorruptionError, match=r"IDENTITY.new: offset 10: expected .* just"):
        write_identity(disk, "/data", NEW)
    disk.faults = None
    assert read_identity(disk, "/data") == OLD


def test_a_leftover_of_a_cut_short_writer_is_replaced(disk: SimulatedDisk) -> None:
    """An IDENTITY.new of any length is in nobody's way."""
    file = disk.open(PATH + ".new", "create")
    file.pwrite(b"x" * 600, 0)
    file.close()
    write_identity(disk, "/data", NEW)
    assert read_identity(disk, "/data") == NEW
    assert disk.listdir("/data") == ["IDENTITY"]
