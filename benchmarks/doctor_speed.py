"""How long `plaudit doctor` takes for a large file of generated pairs.

    python benchmarks/doctor_speed.py [--rows 100000]

Rows have 2.2 kB on average; one in a hundred repeats the row before it, and one more nearly does. Prints the seconds on
the clock, the processor seconds of all processes, and the memory of the largest one, as the operating system counts
them.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = (
    "time person year way day thing man world life hand part child eye woman place work week case point company "
    "number group problem fact be have do say get make go know take see come think look want give use find tell "
    "ask seem feel try leave call good new first last long great little own other old right big high small large "
    "next early young few public bad same able to of in for on with at by from up about into over after the and a "
    "that i it not he as you"
)


def write_rows(path: Path, rows: int) -> None:
    """Pairs of sentences of random words."""
    rng = random.Random(2)
    words = WORDS.split()
    words += [word + end for word in words[:60] for end in ("s", "ed", "ing", "er", "ly")]

    def text(least: int, most: int) -> str:
        lengths = (rng.randint(6, 18) for _ in range(rng.randint(least, most)))
        return " ".join(" ".join(rng.choices(words, k=n)).capitalize() + "." for n in lengths)

    row = {}
    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            if number % 100 == 3:
                row = {**row, "chosen": row["chosen"] + " So it is."}
            elif number % 100 != 1:
                row = {"prompt": text(2, 5), "chosen": text(4, 20), "rejected": text(4, 18)}
                if number % 50 == 0:
                    row["chosen"] += f" Write to user{number}@mail-server.com at 12:30."
            stream.write(json.dumps(row) + "\n")


def main() -> None:
    """Generate, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        write_rows(path, rows)
        command = [sys.executable, "-c", "from plaudit.cli import main; main()", "doctor", str(path), "--json"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        size = path.stat().st_size
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {f["check"]: f["count"] for f in json.loads(done.stdout)["findings"]}
    sys.stdout.write(
        f"{rows:,} pairs, {size / 1e6:.0f} MB: {seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of processors, "
        f"{used.ru_maxrss / 2**20:.2f} GiB in the largest process; {rows / seconds:,.0f} rows per second\n"
        f"found {found['duplicates']:,} duplicates, {found['near_duplicates']:,} near ones\n"
    )


if __name__ == "__main__":
    main()
