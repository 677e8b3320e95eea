"""L7: what is damaged, what a child says of it, and that a store which believes rot is caught."""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from strandline.engine import probe, read_transaction, read_view, records
from strandline.recovery import opening
from strandline.recovery.survey import survey
from strandline.tools.crash.layer import ViolationError
from strandline.tools.crash.layers import rot
from strandline.tools.crash.layers.rot import RotBench, by_kind
from strandline.tools.crash.rot import anatomy, looking, pages
from strandline.tools.crash.rot.anatomy import KINDS, LAST, SEALED, places_of
from strandline.tools.crash.rot.children import run_child
from strandline.tools.crash.rot.damage import DAMAGE_KINDS, Damage, plan_damage
from strandline.tools.crash.rot.stores import SHAPES, Specimen, make_specimen, shape_of
from strandline.tools.crash.rot.verdict import (
    HARMLESS,
    REFUSED,
    TOLD,
    Case,
    History,
    claimed_by_survivors,
)
from strandline.wal.lockfile import LOCK_NAME

LOGGED_SEED = 23
"""A store of which nothing was flushed: several sealed segments above the watermark."""
RECOVERED_SEED = 21


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    """A store that has everything in its log."""
    specimen = make_specimen(tmp_path_factory.mktemp("logged"), LOGGED_SEED, None)
    assert "logged" == specimen.shape
    return specimen


@pytest.fixture(scope="module")
def recovered(tmp_path_factory: pytest.TempPathFactory) -> Specimen:
    """A store with a torn tail in its quarantine."""
    specimen = make_specimen(tmp_path_factory.mktemp("recovered"), RECOVERED_SEED, None)
    assert "recovered" == specimen.shape
    return specimen


def judged(specimen: Specimen, damage: Damage, tmp_path: Path, **options: Any) -> str:
    """Damage a copy, look at it and judge it."""
    copy = tmp_path / "damaged"
    shutil.copytree(specimen.path, copy)
    damage.inflict(copy)
    settings = {**specimen.options, "recovery": "tolerate-torn-tail", "check": "auto", **options}
    history = History(specimen)
    claimed = claimed_by_survivors(specimen.path, copy)
    said = run_child(lambda say: looking.look(copy, history.keys(), settings, say), 60)
    return Case(specimen, history, damage, settings, copy, said).judge(claimed)


def place(specimen: Specimen, kind: str) -> anatomy.Place:
    """Return the first place of a kind."""
    return next(each for each in places_of(specimen.path) if each.kind == kind)


def flipped(specimen: Specimen, where: anatomy.Place, at: int) -> Damage:
    """Return the damage of one bit."""
    data = bytearray((specimen.path / where.file).read_bytes())
    data[at] ^= 1
    return Damage("bit flip", where, f"{where.file} at {at}", {where.file: bytes(data)})


def without_end(specimen: Specimen, where: anatomy.Place, at: int) -> Damage:
    """Return the damage of a file that is cut off."""
    data = (specimen.path / where.file).read_bytes()[:at]
    return Damage("cut off", where, f"{where.file} at {at}", {where.file: data})


# ---- what is judged, and how


def test_what_is_sound_is_harmless(logged: Specimen, tmp_path: Path) -> None:
    """A copy that nothing was done to holds what it held."""
    nothing = Damage("bit flip", place(logged, LAST), "nothing", {})
    assert HARMLESS == judged(logged, nothing, tmp_path)


def test_a_frame_with_claims_behind_it_is_refused(logged: Specimen, tmp_path: Path) -> None:
    """The first frame of the first of several segments."""
    damage = flipped(logged, place(logged, SEALED), 4096 + 80)
    assert REFUSED == judged(logged, damage, tmp_path)


def test_salvage_says_what_it_gave_up(logged: Specimen, tmp_path: Path) -> None:
    """The same frame, in a mode that goes on."""
    damage = flipped(logged, place(logged, SEALED), 4096 + 80)
    assert TOLD == judged(logged, damage, tmp_path, recovery="salvage")


def test_a_file_of_which_nothing_is_believed_is_harmless(
    recovered: Specimen, tmp_path: Path
) -> None:
    """What lies in quarantine is for people to look at."""
    where = place(recovered, anatomy.QUARANTINED)
    assert HARMLESS == judged(recovered, without_end(recovered, where, 0), tmp_path)


def test_checked_pages_never_kill(recovered: Specimen, tmp_path: Path) -> None:
    """A data file cut in its trees is refused by whoever looks first."""
    where = place(recovered, pages.LEAF)
    damage = without_end(recovered, where, where.start)
    assert REFUSED == judged(recovered, damage, tmp_path, check="always")


# ---- what it would find


def test_a_store_that_verifies_no_record_is_caught(
    recovered: Specimen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a record's digest is not compared. A flipped bit of a value comes back."""
    data = (recovered.path / anatomy.DATA_FILE).read_bytes()
    value = recovered.now.tables[""][key := large_key(recovered)]
    damage = flipped(recovered, place(recovered, pages.OVERFLOW), data.index(value) + 900)
    assert REFUSED == judged(recovered, damage, tmp_path / "kept", check="always")

    def believe(_table: int, _key: bytes, record: bytes, _origin: records.Origin) -> bytes:
        return record[: -records.TRAILER_BYTES]

    def believe_all(_table: int, items: records.Items, _origin: records.Origin) -> records.Items:
        return [(each, record[: -records.TRAILER_BYTES]) for each, record in items]

    for module in (probe, read_view, read_transaction):
        monkeypatch.setattr(module, "value_of", believe, raising=False)
        monkeypatch.setattr(module, "values_of", believe_all, raising=False)
    monkeypatch.setattr(read_view, "native", None)
    with pytest.raises(ViolationError, match="never written") as caught:
        judged(recovered, damage, tmp_path / "planted", check="always")
    assert 3 == caught.value.invariant
    assert repr(key) in str(caught.value)


def large_key(specimen: Specimen) -> bytes:
    """Return a key whose value has pages of its own."""
    keys: list[bytes] = [key for key, value in specimen.now.tables[""].items() if len(value) > 9000]
    return keys[0]


def test_a_log_that_ends_early_in_silence_is_caught(
    logged: Specimen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the survey is handed a log that lost its first segments' damage, and more."""
    damage = flipped(logged, place(logged, SEALED), 4096 + 80)

    def forgetful(*arguments: Any, **settings: Any) -> Any:
        found = survey(*arguments, **{**settings, "mode": "point-in-time"})
        return replace(found, damages=(), given_up=(), torn=None)

    monkeypatch.setattr(opening, "survey", forgetful)
    with pytest.raises(ViolationError) as caught:
        judged(logged, damage, tmp_path)
    assert 7 == caught.value.invariant


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGALRM])
def test_a_child_that_is_killed_is_caught(
    logged: Specimen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Planted: reading ends the process, or never ends."""
    monkeypatch.setattr(looking, "_read", lambda *_: os.kill(os.getpid(), number))
    damage = flipped(logged, place(logged, LOCK_NAME), 0)
    with pytest.raises(ViolationError) as caught:
        judged(logged, damage, tmp_path)
    assert {signal.SIGSEGV: 10, signal.SIGALRM: 13}[number] == caught.value.invariant


def test_an_error_that_is_not_documented_is_caught(
    logged: Specimen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a decoder lets a struct.error through."""

    def careless(*_: Any) -> None:
        raise struct.error("unpack requires a buffer of 8 bytes")

    monkeypatch.setattr(opening, "read_identity", careless)
    damage = flipped(logged, place(logged, SEALED), 4096 + 80)
    with pytest.raises(ViolationError, match=r"struct\.error") as caught:
        judged(logged, damage, tmp_path)
    assert 10 == caught.value.invariant


# ---- what is damaged


def test_every_kind_of_place_and_of_damage_occurs(tmp_path: Path) -> None:
    """Over some seeds, each kind of place is there and each kind of damage is planned."""
    places: set[str] = set()
    damages: set[str] = set()
    for seed in (LOGGED_SEED, RECOVERED_SEED, 20, 26):
        (tmp_path / str(seed)).mkdir()
        specimen = make_specimen(tmp_path / str(seed), seed, None)
        found = by_kind(places_of(specimen.path))
        places |= found.keys()
        choose = random.Random(seed)
        for _ in range(60):
            where = found[choose.choice(sorted(found))]
            damages.add(plan_damage(choose, specimen.path, specimen.earlier, where).kind)
    assert set(KINDS) == places
    assert set(DAMAGE_KINDS) == damages


def test_the_shapes_of_stores_occur() -> None:
    """Twenty seeds have all of them."""
    assert set(SHAPES) == {shape_of(seed)[0] for seed in range(20)}
    assert {True, False} == {shape_of(seed)[1] for seed in range(20)}


def test_a_round_keeps_only_the_steps_that_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shrunk round makes a smaller store, damages it as often, and finds nothing in it."""
    monkeypatch.setattr(rot, "_CASES", 12)
    bench = RotBench(tmp_path)
    assert bench.steps(LOGGED_SEED) > 2
    tally = bench.round(LOGGED_SEED, frozenset({0, 1}))
    assert tally.finding is None
    assert tally.cases == sum(tally.outcomes.values()) == 12
    assert not list(tmp_path.iterdir())


def test_a_finding_says_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: nothing can be read. The round ends at once, and names the damage."""
    monkeypatch.setattr(looking, "_read", lambda *_: os.kill(os.getpid(), signal.SIGBUS))
    tally = RotBench(tmp_path).round(LOGGED_SEED)
    assert tally.finding is not None
    assert 10 == tally.finding.invariant
    assert "SIGBUS" in tally.finding.what
    assert "recovery=" in tally.finding.where
    assert "a logged store, closed" in tally.finding.where
