"""`wal-inspect stats`: a log in figures."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from strandline.tools.cli.plain import to_json
from strandline.tools.cli.terminal import ProgressBar, write_line
from strandline.tools.inspect.analysis.analyse import analyse
from strandline.tools.inspect.analysis.figures import (
    OTHER,
    Analysis,
    Estimate,
    HotList,
    Rates,
    SyncLag,
    TableFigures,
)
from strandline.tools.inspect.analysis.spread import Spread
from strandline.tools.inspect.examine import examine
from strandline.tools.inspect.fields import plain_key
from strandline.tools.inspect.frames import Tables
from strandline.tools.inspect.params import AsJson, LogPath
from strandline.tools.inspect.selection import FromLsn, Selection, TableNames, ToLsn, selection_of
from strandline.tools.inspect.stats_text import show_analysis
from strandline.tools.inspect.summary import end_with, log_plain, tell_findings, tell_gone
from strandline.tools.inspect.target import resolve
from strandline.tools.inspect.times import show_time

EXAMPLES: Final = (
    "wal-inspect stats data",
    "wal-inspect stats data --table users --top 50",
    "wal-inspect stats data --from-lsn 1000 --to-lsn 1999 --json",
)

Top = Annotated[int, typer.Option("--top", min=0, max=1000, help="How many hot keys to list.")]


def stats(
    path: LogPath,
    *,
    from_lsn: FromLsn = None,
    to_lsn: ToLsn = None,
    table: TableNames = None,
    top: Top = 10,
    as_json: AsJson = False,
) -> None:
    """Count what is written: by table, by time, by key; and how far behind syncs are.

    Tables, how large groups and frames are, the rate over time, the hottest keys, and what
    is saved by storing only the last of several writes of a key. Of a damaged log all that
    verifies is counted. With --table only operations of these tables are; what is said of
    frames and syncs is about all of them.
    """
    wanted = selection_of(from_lsn=from_lsn, to_lsn=to_lsn, tables=table)
    log = examine(resolve(path))
    tables = Tables(log.metadata)
    tables.learn(log, below=wanted.from_lsn)
    with ProgressBar("counting", "operations", delay=0.3) as bar:
        found = analyse(
            log,
            tables,
            from_lsn=wanted.from_lsn,
            to_lsn=wanted.to_lsn,
            only=wanted.tables,
            top=top,
            progress=bar.advance,
        )
    if as_json:
        write_line(to_json(log_plain(log) | analysis_plain(found, tables, wanted)))
    else:
        show_analysis(log, found, tables)
        tell_findings(log)
    tell_gone(found)
    end_with(log, senseless=found.undecodable)


def analysis_plain(found: Analysis, tables: Tables, wanted: Selection) -> dict[str, Any]:
    """Return an analysis as JSON has it."""
    return {
        "range": {
            "from_lsn": wanted.from_lsn,
            "to_lsn": wanted.to_lsn,
            "tables": None if wanted.tables is None else sorted(wanted.tables),
            "frames": found.frames,
            "payload_bytes": found.payload_bytes,
            "frame_bytes": found.frame_bytes,
        },
        "total": _table(found.total),
        "tables": [_table(each) for each in found.tables],
        "group_sizes": _spread(found.group_sizes),
        "frame_sizes": _spread(found.frame_sizes),
        "rates": _rates(found.rates),
        "hot_keys": _hot(found.hot_keys, tables, "key"),
        "hot_prefixes": _hot(found.hot_prefixes, tables, "prefix"),
        "sync": _sync(found.sync),
        "undecodable": {
            "frames": found.undecodable,
            "operations": found.undecodable_operations,
            "first": [
                {"path": each.path, "offset": each.offset, "lsn": each.lsn, "reason": each.reason}
                for each in found.undecodable_places
            ],
        },
        "gone": [
            {"path": each.path, "first_lsn": each.first_lsn, "last_lsn": each.last_lsn}
            for each in found.gone
        ],
    }


def _table(table: TableFigures) -> dict[str, Any]:
    named = table.table_id not in (None, OTHER)
    return {
        "id": table.table_id if named else None,
        "name": table.name if named else None,
        "codec": table.codec if named else None,
        "operations": table.operations,
        "kinds": table.kinds,
        "key_bytes": table.key_bytes,
        "value_bytes": table.value_bytes,
        "frames": table.frames,
        "distinct_keys": _estimate(table.distinct),
        "overwritten": _estimate(table.overwritten),
        "saved": round(table.saved, 6),
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "exact": found.exact, "error": round(found.error, 6)}


def _spread(spread: Spread) -> dict[str, Any]:
    return {
        "count": spread.count,
        "minimum": spread.minimum,
        "mean": round(spread.mean, 3),
        "p50": spread.percentile(50),
        "p90": spread.percentile(90),
        "p99": spread.percentile(99),
        "p999": spread.percentile(99.9),
        "maximum": spread.maximum,
        "powers": [
            {"low": each.low, "high": each.high, "count": each.count} for each in spread.powers()
        ],
    }


def _rates(rates: Rates) -> dict[str, Any]:
    return {
        "width_ns": rates.width_ns,
        "steps_back": rates.steps_back,
        "buckets": [
            {
                "start": show_time(bucket.start_ns),
                "start_ns": bucket.start_ns,
                "tables": [
                    {
                        "id": None if table_id == OTHER else table_id,
                        "operations": times,
                        "data_bytes": bucket.data_bytes[table_id],
                    }
                    for table_id, times in bucket.operations.items()
                ],
            }
            for bucket in rates.buckets
        ],
    }


def _hot(hot: HotList, tables: Tables, what: str) -> dict[str, Any]:
    return {
        "missed": hot.missed,
        "found": [
            {
                "table": None if each.table_id == OTHER else each.table_id,
                what: plain_key(
                    tables.codec(each.table_id) if what == "key" else "bytes", each.key
                ),
                "count": each.count,
                "too_many": each.too_many,
            }
            for each in hot.found
        ],
    }


def _sync(sync: SyncLag) -> dict[str, Any]:
    return {
        "unsynced_operations": _spread(sync.operations),
        "delay_ns": _spread(sync.delay_ns),
        "sampled": sync.sampled,
        "unclaimed_frames": sync.unclaimed,
        "backward_frames": sync.backward,
    }
