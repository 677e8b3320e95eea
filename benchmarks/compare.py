"""The comparison: strandline beside other embedded stores, in turn, in one run.

    python -m benchmarks.compare [--quick] [--rows NAME...] [--rounds 5]
                                 [--json FILE] [--svg FILE] [--dir PATH]

Prints a table for each row, JSON and a chart on request. Data lies in a temporary directory
below `--dir` and is removed at the end, also after an interrupt or SIGTERM.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from typing import Any

from benchmarks.facts import VOLATILE, file_system, machine_facts, skipped, versions
from benchmarks.harness import RowResult, run_row
from benchmarks.report import as_json, configurations, table, verdicts
from benchmarks.rows import all_rows, choose
from benchmarks.scale import FULL, QUICK


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison; returns 0 when it ran, whatever it found."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.svg and importlib.util.find_spec("matplotlib") is None:
        parser.error("--svg needs matplotlib: pip install 'strandline[bench]'")
    if options.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, found {options.rounds}")
    try:
        rows = choose(all_rows(QUICK if options.quick else FULL), options.rows)
        parent = options.dir or _directory_on_disk()
    except ValueError as error:
        parser.error(str(error))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results: list[RowResult] = []
    with tempfile.TemporaryDirectory(prefix="strandline-bench-", dir=parent) as directory:
        facts = machine_facts(directory)
        _print_facts(facts)
        for row in rows:
            with tempfile.TemporaryDirectory(dir=directory) as own:
                results.append(run_row(row, own, options.rounds, _progress))
            _progress("")
            print(table(results[-1]), end="\n\n", flush=True)
    print(configurations(results), verdicts(results), sep="\n\n")
    if options.json:
        _write_json(options, facts, results)
    if options.svg:
        from benchmarks.chart import draw

        draw(results, options.svg)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="NAME",
        default=["*"],
        help="rows to run, by name or shell pattern: "
        + ", ".join(row.name for row in all_rows(QUICK)),
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write every round's numbers")
    parser.add_argument("--svg", metavar="FILE", help="draw the medians")
    parser.add_argument("--dir", metavar="PATH", help="where temporary data lies")
    return parser


def _directory_on_disk() -> str:
    for path in (tempfile.gettempdir(), os.getcwd(), os.path.expanduser("~")):
        if os.path.isdir(path) and file_system(path) not in VOLATILE:
            return path
    raise ValueError("no temporary directory is on a disk; name one with --dir")


def _print_facts(facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        print(f"{name + ':':14}{value}")
    print("versions:     " + ", ".join(f"{name} {text}" for name, text in versions().items()))
    for name, reason in skipped().items():
        print(f"skipped:      {name}: {reason}")
    if facts["file_system"] in VOLATILE:
        print("warning:      the data lies in memory: what syncs cost is not measured")
    print("rows marked * are references, not peers\n", flush=True)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _write_json(
    options: argparse.Namespace, facts: dict[str, Any], results: list[RowResult]
) -> None:
    document = {
        "format": 1,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": facts,
        "versions": versions(),
        "skipped": skipped(),
        "rounds": options.rounds,
        "scale": dataclasses.asdict(QUICK if options.quick else FULL),
        "rows": [as_json(result) for result in results],
    }
    with open(options.json, "w") as file:
        json.dump(document, file, indent=2)
        file.write("\n")


if __name__ == "__main__":
    sys.exit(main())
