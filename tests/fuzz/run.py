"""Damages files at random and opens them as users do: `python tests/fuzz/run.py --tries 10000 --seed 0`.

Every try ends in one of: refused (one sentence, ValueError or OSError; from the command line exit code 2 and one line), fine (as the good file),
other (another result, which the format has no way to tell from an edit), wrong (another result though it could be told), bare (another exception), hung
(over the time or the memory that such small files may take). The last three must be 0. `--door NAME --try N` does one again, aloud.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OUTCOMES = ("tried", "refused", "fine", "other", "wrong", "bare", "hung")
FAULTS = ("wrong", "bare", "hung")
SECONDS, FIRST_SECONDS = 20, 180  # for a try; for the first at a door, which makes the good files


class Worker:
    """A process that tries; it is ended and started anew when a try takes too long, or kills it."""

    def __init__(self) -> None:
        self.process: Any = None
        self.known: set[str] = set()

    def ask(self, door: str, seed: str) -> dict[str, Any]:
        if self.process is None or self.process.poll() is not None:
            self.known = set()
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        for first in (True, False):  # the good files are made in a try of their own, which is not counted
            if first and door in self.known:
                continue
            answer = self._answer(door, "nothing" if first else seed, FIRST_SECONDS if first else SECONDS)
            if first and answer is None:
                raise RuntimeError(f"The good files of {door!r} could not be made and opened; see with CSP_FUZZ_LOUD=1.")
            self.known.add(door)
        return answer or {
            "outcome": "hung",
            "error": f"no answer within {SECONDS} seconds, or killed",
            "file": "?",
            "mutation": "?",
        }

    def _answer(self, door: str, seed: str, seconds: float) -> dict[str, Any] | None:
        self.process.stdin.write(json.dumps({"door": door, "seed": seed}) + "\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(seconds) else ""
        if not line:
            self.process.kill()
            self.process.wait()
            return None
        return json.loads(line)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.stdin.close()
            self.process.wait()


def shares(doors: list[Any], tries: int) -> dict[str, int]:
    total = sum(door.weight for door in doors)
    return {door.name: max(1, round(tries * door.weight / total)) for door in doors}


def fuzz(tries: int, seed: int, names: list[str] | None = None, jobs: int = 1) -> dict[str, list[dict[str, Any]]]:
    """Door -> what came of each try."""
    from doors import DOORS

    wanted = [door for door in DOORS if names is None or door.name in names]
    counts = shares(wanted, tries)

    def go(part: list[str]) -> dict[str, list[dict[str, Any]]]:
        worker = Worker()
        try:
            return {name: [{"try": i, **worker.ask(name, f"{seed}:{name}:{i}")} for i in range(counts[name])] for name in part}
        finally:
            worker.close()

    parts = [[door.name for door in wanted[i::jobs]] for i in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        found = {name: tried for part in pool.map(go, parts) for name, tried in part.items()}
    return {door.name: found[door.name] for door in wanted}


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    rows = [["door", *OUTCOMES]]
    for name, tried in [*found.items(), ("all", [each for part in found.values() for each in part])]:
        rows.append([name, str(len(tried)), *(str(sum(each["outcome"] == kind for each in tried)) for kind in OUTCOMES[1:])])
    width = max(len(row[0]) for row in rows)
    return "\n".join(row[0].ljust(width) + "".join(cell.rjust(9) for cell in row[1:]) for row in rows)


def faults(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    return [
        f"{name}, try {each['try']}: {each['outcome']}: {each['mutation']} of {each['file']}: {each.get('error', '')}{'' if not aloud() else each.get('trace', '')}"
        for name, tried in found.items() for each in tried if each["outcome"] in FAULTS
    ]  # fmt: skip


def aloud() -> bool:
    return "CSP_FUZZ_LOUD" in os.environ


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", help="by its name; several times for several")
    parser.add_argument("--try", type=int, dest="one", help="only this one of a door")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, help="everything, as JSON")
    given = parser.parse_args()
    if given.one is not None:
        worker = Worker()
        print(json.dumps(worker.ask(given.door[0], f"{given.seed}:{given.door[0]}:{given.one}"), indent=1).replace("\\n", "\n"))
        worker.close()
        return 0
    found = fuzz(given.tries, given.seed, given.door, given.jobs)
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))
    print("\n".join(faults(found)))
    print(table(found))
    return 1 if faults(found) else 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    sys.exit(main())
