"""Writes the inputs in `corpus/` anew: `python -m fuzz.seeds`."""

from __future__ import annotations

from pathlib import Path

import msgpack
import xxhash

from fuzz.mending import HEADER
from strandline.codecs import get_codec
from strandline.engine.operations import CREATE, DELETE, PUT, encode_table_options, tag_of
from strandline.engine.records import encode
from strandline.wal.format import (
    FRAME_HEADER_BYTES,
    SYNC_MARK_PAYLOAD,
    TYPE_DATA,
    TYPE_SEAL,
    TYPE_SYNC_MARK,
    Seal,
    encode_frame,
    encode_seal,
    encode_segment_header,
)
from strandline.wal.identity import Identity, encode_identity

FOLDER = Path(__file__).parent / "corpus"

PAYLOADS: list[list[object]] = [
    [None, tag_of(1, PUT), b"key", b"value"],
    [None, tag_of(1, PUT), b"a", b"1", tag_of(2, DELETE), b"b", None],
    [[0, 2], tag_of(1, PUT), b"a", bytes(300), tag_of(1, PUT), b"a", b"2"],
    [None, tag_of(9, CREATE), b"name", encode_table_options("bytes/bytes", logged=True)],
]


CATALOG: list[bytes] = [
    bytes(range(16)) + (3).to_bytes(8, "little") + (77).to_bytes(8, "little"),
    msgpack.packb([9, [[1, "", "bytes/bytes", True], [9, "views", "utf-8/json", False]]]),
    msgpack.packb({1: 5, 9: 0}),
]


def frame(kind: int, payload: bytes, count: int, lsn: int, synced: int) -> bytes:
    """Return a frame of the segment that the fuzzer reads."""
    stamp = (HEADER.segment_id, HEADER.salt, HEADER.epoch)
    return encode_frame(kind, payload, count, lsn, synced, 0, 1, *stamp)


def segment() -> bytes:
    """Return the frames of a whole segment."""
    body, lsn = b"", HEADER.first_lsn
    for items in PAYLOADS:
        count = (len(items) - 1) // 3
        body += frame(TYPE_DATA, msgpack.packb(items), count, lsn, lsn - 1)
        lsn += count
    body += frame(TYPE_SYNC_MARK, SYNC_MARK_PAYLOAD, 0, lsn, lsn - 1)
    seal = Seal(len(PAYLOADS) + 1, lsn - 1, xxhash.xxh3_128_digest(body))
    return body + frame(TYPE_SEAL, encode_seal(seal), 0, lsn, lsn - 1)


def main() -> None:
    """Write every seed."""
    seeds = {"frames/segment": segment(), "frames/cut": segment()[:-50]}
    for number, items in enumerate(PAYLOADS):
        seeds[f"payloads/{number}"] = bytes([(len(items) - 1) // 3]) + msgpack.packb(items)
    seeds["records/value"] = b"\x03key" + encode(7, b"key", 5, b"value")
    seeds["records/empty"] = b"\x01k" + encode(7, b"k", 1 << 40, b"")
    seeds["identity/store"] = encode_identity(Identity(bytes(range(16)), 3, 1 << 29))
    half = len(segment()) // 2
    seeds["logs/two"] = half.to_bytes(2, "little") + b"\0" + segment()
    seeds["logs/watermark"] = (len(segment()) - 1).to_bytes(2, "little") + b"\3" + segment()
    seeds["headers/segment"] = encode_segment_header(HEADER)
    seeds["headers/frame"] = segment()[:FRAME_HEADER_BYTES]
    seeds["headers/seal"] = encode_seal(Seal(3, 9, bytes(16)))
    for name in ("utf-8", "msgpack", "json"):
        value = {"a": [1, -2.5, None, True, "\u00e9"]} if name != "utf-8" else "\u00e9"
        seeds[f"codecs/{name}"] = get_codec(name).encode_value(value)
    seeds["codecs/creation"] = b"\4name" + encode_table_options("utf-8/json", logged=True)
    seeds["catalog/store"] = b"".join(bytes([len(part)]) + part for part in CATALOG)
    for name, content in seeds.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
