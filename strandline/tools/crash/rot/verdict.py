"""What became of a damaged store: detected, harmless, unseen, or a broken promise.

A frame *survives* if its bytes are where they were. What the survivors claim to have been
on disk is what must be there, or else an error or the report must say that it is not:
that is found out here from the bytes alone, and not from what the store makes of them.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from strandline.codecs import get_codec
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.oracle.reading import difference
from strandline.tools.crash.rot.anatomy import (
    DATA_FILE,
    UNREAD_KINDS,
    frames_of,
    header_of,
    log_files,
)
from strandline.tools.crash.rot.children import Said
from strandline.tools.crash.rot.damage import Damage
from strandline.tools.crash.rot.looking import AFTERWARDS, NOT_FLUSHED
from strandline.tools.crash.rot.stores import Specimen, values_of
from strandline.tools.crash.script.model import UNLOGGED
from strandline.tools.crash.script.steps import CODECS
from strandline.wal.format import SEGMENT_HEADER_BYTES

REFUSED, TOLD, READ, HARMLESS, SHORTER, CHECKED, UNSEEN, KILLED = (
    "refused", "told", "read", "harmless", "shorter", "checked", "unseen", "killed",
)  # fmt: skip
OUTCOMES: Final = {
    REFUSED: "opening or writing is refused, with an error that names the file",
    TOLD: "the recovery report says it",
    READ: "a read raises",
    HARMLESS: "the store holds what it held",
    SHORTER: "it ends earlier, as after a torn tail: nothing says that the rest was on disk",
    CHECKED: "a key is absent or a value old; only `strandline check` sees it",
    UNSEEN: "a key is absent or a value old, and nothing sees it",
    KILLED: "LMDB, which nothing looked at first, ends or stops the process: a store that was "
    'closed in order, opened without check="always"',
}
"""What can become of a damage that breaks no promise."""

_ERRORS: Final = frozenset(
    {"LogCorruptionError", "LogGapError", "StoreCorruptionError", "ForeignStoreError"}
)
_LATER: Final = ("writing", "flushing", "closing", "reopening")
_AFTER_A_COMMIT: Final = frozenset({"StoreFailedError", "WriteOutcomeUnknownError", NOT_FLUSHED})
"""What a checkpoint that meets damaged pages leaves behind, beside the first error."""


SALVAGED: Final = "salvaged-"
"""How salvage names a table whose making is lost; what it holds it cannot decode."""


class History:
    """Every value that a specimen ever held, by table and key."""

    def __init__(self, specimen: Specimen) -> None:
        self._values: dict[tuple[str, Any], list[Any]] = {}
        self._raw: dict[Any, list[Any]] = {}
        for name, key, value in values_of(specimen):
            known = self._values.setdefault((name, key), [])
            if value not in known:
                known.append(value)
                codec = get_codec(CODECS.get(name, "bytes"))
                self._raw.setdefault(codec.encode_key(key), []).append(codec.encode_value(value))

    def keys(self) -> dict[str, list[Any]]:
        """Return the keys that each table ever held."""
        found: dict[str, list[Any]] = {}
        for name, key in self._values:
            found.setdefault(name, []).append(key)
        return found

    def require(self, name: str, key: Any, value: Any) -> None:
        """Refuse a value that was never written for the key."""
        ours = isinstance(key, bytes) and key.startswith(AFTERWARDS) and value == b"goes on"
        known = self._values.get((name, key), ())
        if name.startswith(SALVAGED):
            known = self._raw.get(key, [])
        if not ours and value not in known:
            raise ViolationError(
                3, f"table {name!r}, key {key!r}: {value!r:.60} was never written for it"
            )


class Case:
    """One damage, and what a child found of the store that has it."""

    def __init__(
        self, specimen: Specimen, history: History, damage: Damage, options: dict[str, Any],
        damaged: Path, said: Said,
    ) -> None:  # fmt: skip
        self.specimen = specimen
        self.history = history
        self.damage = damage
        self.said = said
        self._damaged = damaged
        self._mode = options["recovery"]
        self._in_lmdb = DATA_FILE in damage.contents
        self._unguarded = self._in_lmdb and specimen.closed and options["check"] == "auto"
        self._errors = [message[1] for message in said.messages if message[0] == "error"]

    def judge(self, must_be_there: int) -> str:
        """Return one of `OUTCOMES`; `must_be_there` is the LSN that the survivors claim.

        Raises:
            ViolationError: a promise is broken.
        """
        if self.said.signal and not self._unguarded:
            hangs = self.said.signal == signal.SIGALRM
            what = "hangs" if hangs else f"is ended by {signal.Signals(self.said.signal).name}"
            raise ViolationError(13 if hangs else 10, f"the process {what} {self._doing()}")
        if self.said.fault:
            raise ViolationError(
                10, f"no error of the store, {self._doing()}: {self.said.fault[-900:]}"
            )
        self._require_values()
        self._require_good_errors()
        if self.said.signal:
            return KILLED
        if any(step == "opening" for step, _, _ in self._errors):
            return REFUSED
        self._require_new_lsns()
        outcome = self._outcome(must_be_there)
        return self._go_on(outcome)

    def _doing(self) -> str:
        return f"while {self.said.of('at') or 'starting'}"

    # ---- what is never allowed

    def _require_values(self) -> None:
        """Every value that was read, in any way, was written for its key."""
        for message in self.said.messages:
            if message[0] == "scanned":
                name, content = message[1]
                for key, value in content.items():
                    self.history.require(name, key, value)
            elif message[0] == "got":
                self.history.require(*message[1])
            elif message[0] == "again":
                for name, content in message[1].items():
                    for key, value in content.items():
                        self.history.require(name, key, value)

    def _require_good_errors(self) -> None:
        """Errors are of the documented kinds, name the store's file, and fit the damage."""
        for step, name, text in self._errors:
            allowed = name in _ERRORS
            if self._in_lmdb and step in ("writing", "flushing", "closing"):
                allowed = allowed or name in _AFTER_A_COMMIT
            if not allowed or str(self._damaged) not in text:
                raise ViolationError(10, f"{step} raises {name}: {text}")
            if set(self.damage.contents) == {self.damage.place.file} and (
                self.damage.place.kind in UNREAD_KINDS
            ):
                raise ViolationError(
                    10, f"nothing is believed of this file, and {step} raises {name}: {text}"
                )

    def _require_new_lsns(self) -> None:
        following = self.said.of("next")
        if following <= self.specimen.issued:
            raise ViolationError(
                12, f"LSN {following} would be issued again, up to {self.specimen.issued} were"
            )

    # ---- what it held, and what it went on to hold

    def _outcome(self, must_be_there: int) -> str:
        if any(step in ("scanning", "getting", "counting") for step, _, _ in self._errors):
            self._only_in_lmdb("reading fails")
            return READ
        state = dict(self._scanned())
        told, torn, summary = self.said.of("report")
        expected = {**self.specimen.now.tables}
        if UNLOGGED in expected:
            expected[UNLOGGED] = self.specimen.now.unlogged
        if not self._ways_agree(state):
            self._only_in_lmdb("a scan, get and len say different things")
        elif state == expected:
            return TOLD if told or torn else HARMLESS
        if told or torn:
            if self._mode != "salvage" and not self._in_lmdb:
                # Only a recovery that stops at damage may do without what was on disk.
                stops = told and self._mode == "point-in-time"
                self._require_prefix(state, 0 if stops else must_be_there, summary)
            return TOLD
        if not self._in_lmdb:
            self._require_prefix(state, must_be_there, summary)
            return SHORTER
        return UNSEEN if self.said.of("check")[0] == "sound" else CHECKED

    def _scanned(self) -> Iterator[tuple[str, Any]]:
        return (message[1] for message in self.said.messages if message[0] == "scanned")

    def _ways_agree(self, state: dict[str, Any]) -> bool:
        got: dict[str, Any] = {name: {} for name in state}
        for message in self.said.messages:
            if message[0] == "got":
                name, key, value = message[1]
                got[name][key] = value
        lengths = {name: len(content) for name, content in state.items()}
        return got == state and lengths == self.said.of("lengths")

    def _only_in_lmdb(self, what: str) -> None:
        if not self._in_lmdb:
            errors = "; ".join(f"{name}: {text}" for _, name, text in self._errors)
            raise ViolationError(10, f"LMDB is sound, and {what} {errors}")

    def _require_prefix(self, state: dict[str, Any], least: int, summary: str) -> None:
        """The store is as it was after some commit, none of those missing that must be there."""
        logged = {name: {} if name == UNLOGGED else table for name, table in state.items()}
        least = min(least, self.specimen.now.lsn)
        if any(logged == each.tables and each.lsn >= least for each in self.specimen.states):
            return
        raise ViolationError(
            7, f"LSN {least} was on disk, and the store is opened without an error as it never "
            f"was from there on: {difference(self.specimen.now.tables, logged)}\n{summary}",
        )  # fmt: skip

    def _go_on(self, outcome: str) -> str:
        """Look at what came of writing to the store and opening it again."""
        later = [each for each in self._errors if each[0] in _LATER]
        if later:
            if not self._in_lmdb:
                raise ViolationError(12, f"the opened store does not go on: {later[0]}")
            return REFUSED if outcome in (HARMLESS, CHECKED, UNSEEN) else outcome
        again = self.said.of("again")
        before = {name: dict(content) for name, content in self._scanned()}
        after = {
            name: {k: v for k, v in content.items() if not _ours(k)}
            for name, content in again.items()
        }
        if before != after and not self._in_lmdb:
            raise ViolationError(5, f"opened again it differs: {difference(before, after)}")
        return outcome


def _ours(key: Any) -> bool:
    return isinstance(key, bytes) and key.startswith(AFTERWARDS)


def claimed_by_survivors(sound: Path, damaged: Path) -> int:
    """Return the LSN up to which what is left of a log says that it was on disk."""
    claimed = 0
    for path in log_files(sound):
        data = path.read_bytes()
        left_path = damaged / path.relative_to(sound)
        left = left_path.read_bytes() if left_path.exists() else b""
        header = header_of(data, path)
        if header is None or left[:SEGMENT_HEADER_BYTES] != data[:SEGMENT_HEADER_BYTES]:
            continue
        claimed = max(claimed, header.previous_last_lsn)
        for frame in frames_of(data):
            if left[frame.offset : frame.end] == data[frame.offset : frame.end]:
                claimed = max(claimed, frame.header.synced_lsn, frame.header.stored_lsn)
    return claimed
