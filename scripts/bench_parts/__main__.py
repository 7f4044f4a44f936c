"""`scripts/bench`: measure, print a table, write JSON.

Everything is measured in one run on one machine, the machine's own floor with
it: a number without the machine beside it says little. Each measure gets a
fresh server; all share one mock provider.
"""

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench_parts.beside import floor, provider, provider_latency_ms, start
from bench_parts.figures import Figure, as_json, as_table
from bench_parts.measures import MEASURES
from bench_parts.processes import Mock, open_floor, open_mock, open_server

__all__: list[str] = []


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def with_provider_taken_off(figures: list[Figure], mock: Mock) -> list[Figure]:
    """Add what Atrio adds to the way from the provider: the whole way, less the way without it, each at its own p50
    and p99. The machine's own late wake-ups are in both p99s.
    """
    direct_p50, direct_p99 = provider_latency_ms(mock)
    whole_p50, whole_p99 = (figure.value for figure in figures)
    return [
        *figures,
        Figure("provider to client without Atrio: p50", direct_p50, "ms"),
        Figure("provider to client without Atrio: p99", direct_p99, "ms"),
        Figure("added between provider and client: p50", whole_p50 - direct_p50, "ms", 0.5),
        Figure("added between provider and client: p99", whole_p99 - direct_p99, "ms", 3),
    ]


def measure(name: str, mock: Mock, profile: Path | None) -> list[Figure]:
    """Run one measure on a fresh server."""
    say(name)
    report = profile / f"{name}.txt" if profile else None
    with open_server(model_url=mock.url, profile=report) as server:
        figures = MEASURES[name](server)
    return with_provider_taken_off(figures, mock) if name == "latency" else figures


def machine() -> dict[str, str | int]:
    """What the numbers were measured on."""
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": model[0] if model else platform.processor(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def main() -> int:
    """Measure what was asked for. The exit code is 0, met or missed: a slow machine is no error."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure Atrio on this machine.")
    parser.add_argument(
        "measures", nargs="*", metavar="MEASURE", help=f"start, floor, {', '.join(MEASURES)} (default: all)"
    )
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), help="where the JSON goes (%(default)s)")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="run the server under a sampling profiler")
    given = parser.parse_args()
    known = ["floor", "start", *MEASURES]
    for name in given.measures:
        if name not in known:
            parser.error(f"there is no measure {name!r}; there are {', '.join(known)}")
    if given.profile:
        given.profile.mkdir(parents=True, exist_ok=True)

    figures: list[Figure] = []
    with open_mock() as mock:
        for name in given.measures or known:
            if name == "floor":
                say(name)
                with open_floor() as port:
                    figures += floor(port)
                figures += provider(mock)
            elif name == "start":
                say(name)
                figures += start(mock)
            else:
                figures += measure(name, mock, given.profile)

    about = machine()
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    print(as_table(figures))
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps({"machine": about, "figures": as_json(figures)}, indent=2) + "\n")
    say(f"also written to {given.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
