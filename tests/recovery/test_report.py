"""What a recovery says of itself."""

from __future__ import annotations

from strandline.recovery.report import RecoveryReport, TornTail
from strandline.wal.damage import Damage, DamageKind


def damage(kind: DamageKind) -> Damage:
    """Return some damage."""
    return Damage(kind, "/data/log/7.wal", 7, 81920, 4711, "a frame", "zeros")


def report(**fields: object) -> RecoveryReport:
    """Return the report of a start without anything special."""
    plain: dict[str, object] = {
        "mode": "tolerate-torn-tail",
        "clean": False,
        "epoch": 3,
        "first_lsn": 1,
        "last_lsn": 13,
        "watermark_lsn": 5,
        "segments": 2,
        "frames_scanned": 10,
        "operations_scanned": 13,
        "bytes_scanned": 4242,
        "frames_replayed": 6,
        "operations_replayed": 8,
        "bytes_replayed": 777,
        "torn_tail": None,
        "damages": (),
        "gaps": (),
        "given_up": (),
        "quarantined": (),
        "unquarantined_bytes": 0,
        "scan_seconds": 0.25,
        "replay_seconds": 0.5,
    }
    return RecoveryReport(**(plain | fields))  # type: ignore[arg-type]


def test_the_summary_of_an_ordinary_start_is_four_lines() -> None:
    """How it ended, what the log holds, what was scanned, what was replayed."""
    assert [
        "recovered after an unclean end, mode tolerate-torn-tail, epoch 3",
        "log: 2 segments, LSN 1 to 13; watermark 5",
        "scanned 10 frames, 13 operations, 4242 bytes in 0.250 s",
        "replayed 6 frames, 8 operations, 777 bytes in 0.500 s",
    ] == report().summary().splitlines()


def test_a_clean_start_of_an_empty_log_says_so() -> None:
    """No operation, no LSN."""
    lines = report(clean=True, first_lsn=None, last_lsn=0).summary().splitlines()
    assert lines[0].startswith("clean start")
    assert "no operations" in lines[1]


def test_everything_that_was_dropped_or_passed_over_is_in_the_summary() -> None:
    """Torn tail, damage, gaps, given up LSNs, files put aside, bytes that had no room."""
    torn = TornTail(
        path="/data/log/7.wal",
        segment_id=7,
        offset=81920,
        dropped_bytes=512,
        lsn=4711,
        reason=damage(DamageKind.HEADER_CRC),
        quarantined="/data/quarantine/x.tail",
    )
    text = report(
        torn_tail=torn,
        damages=(damage(DamageKind.PAYLOAD_CRC),),
        gaps=(damage(DamageKind.MISSING),),
        given_up=((3, 9),),
        quarantined=("/data/quarantine/x.tail",),
        unquarantined_bytes=99,
    ).summary()
    for part in (
        "given up: LSN 3 to 9",
        "/data/log/7.wal from offset 81920, LSN 4711: 512 bytes dropped, kept as",
        "header-crc",
        "not quarantined: 99 bytes",
        "damage: /data/log/7.wal: offset 81920, LSN 4711: payload-crc: expected a frame",
        "gap: /data/log/7.wal: offset 81920, LSN 4711: missing",
        "quarantined: /data/quarantine/x.tail",
    ):
        assert part in text


def test_a_torn_tail_without_a_copy_is_said_not_to_be_kept() -> None:
    """Whoever reads the summary must not look for a file that is not there."""
    torn = TornTail(
        path="/data/log/7.wal",
        segment_id=7,
        offset=8,
        dropped_bytes=1,
        lsn=1,
        reason=damage(DamageKind.ZERO),
    )
    assert "not kept" in report(torn_tail=torn).summary()
