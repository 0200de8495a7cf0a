#!/usr/bin/env python3
"""Kills trainings, predictions, evaluations and tables at random moments, and repeats the same
command until it ends: what is left must equal what an unkilled one leaves, byte for byte.

    tests/reliability/kill.py target/release/uq4ct --kills 40
"""

import random
import time

from common import SMALL, Count, Place, arguments, kill, outcome

TABLE = ["reproduce", "table1", "--model", "tiny", "--seeds", "1", "--plain"]
TABLE += ["--methods", "lora,uq4ct", "--train-limit", "16", "--limit", "8", "--root", "root"]
TABLE += ["--set", "evaluation.bootstrap=10", "--set", "train.checkpoint_every=2"]


def until_it_ends(place, count, words, kills, longest, kind):
    """Runs a command, killed so many times, then to its end."""
    for _ in range(kills):
        child = place.start(*words())
        until = time.time() + random.uniform(0, longest)
        while time.time() < until and child.poll() is None:
            time.sleep(0.002)
        if child.poll() is None:
            kill(child)
            count.saw(f"kills in {kind}")
        else:
            out, err = child.communicate()
            count.must(child.returncode == 0, f"{kind} ended with {child.returncode}: {err!r}")
            return
    code, _, err = place.run(*words())
    count.must(code == 0, f"{kind} ended with {code}: {err}")


def leftovers(root):
    """Files that a killed process was writing."""
    return [str(path) for path in root.rglob("*.tmp")]


def main():
    """Every kind in turn."""
    flags = arguments(__doc__, kills=40)
    if flags.short:
        flags.kills = 3
    place, count = Place(flags.program), Count("kill")
    began = time.time()
    place.succeeds(*SMALL, "--run", "whole")
    took = time.time() - began
    whole = outcome(place.root / "whole")
    # Trainings, a few kills each.
    left = flags.kills
    while left > 0:
        kills = min(left, random.randint(1, 5))
        run = place.root / "run"

        def command():
            begun = (run / "config.toml").is_file()
            return [*SMALL, "--run", "run", *(["--resume"] if begun else [])]

        until_it_ends(place, count, command, kills, took, "training")
        count.must(outcome(run) == whole, "a killed training ends differently")
        count.must(not leftovers(run), f"left behind: {leftovers(run)}")
        place.copy("run", "last")
        for path in sorted(run.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        run.rmdir()
        left -= kills
        count.saw("trainings equal to an unkilled one")

    questions = place.questions(100 if flags.short else 1000)
    ask = ["predict", "whole", "--input", questions, "--batch", "4", "--output"]
    began = time.time()
    place.succeeds(*ask, "straight.jsonl")
    took = time.time() - began
    until_it_ends(place, count, lambda: [*ask, "killed.jsonl"], flags.kills, took, "predict")
    same = [(place.root / name).read_text() for name in ("straight.jsonl", "killed.jsonl")]
    # A batch that was cut is asked again in other company: last digits may differ.
    count.must(
        [line[:40] for line in same[0].splitlines()] == [line[:40] for line in same[1].splitlines()],
        "a killed predict ends differently",
    )
    count.must(same[0].count("\n") == same[1].count("\n"), "answers are missing or doubled")

    evaluate = ["evaluate", "whole", "--on", "arc-easy,openbookqa"]
    began = time.time()
    place.succeeds(*evaluate)
    took = time.time() - began
    sets = [place.root / f"whole/evaluation/{name}" for name in ("arc-easy", "openbookqa")]
    straight = [(path / "predictions.jsonl").read_bytes() for path in sets]
    for path in sets:
        (path / "predictions.jsonl").unlink()
    until_it_ends(place, count, lambda: evaluate, flags.kills, took, "evaluate")
    killed = [(path / "predictions.jsonl").read_bytes() for path in sets]
    count.must(straight == killed, "a killed evaluate ends differently")

    began = time.time()
    place.succeeds(*TABLE)
    took = time.time() - began
    (place.root / "root").rename(place.root / "straight")
    until_it_ends(place, count, lambda: TABLE, flags.kills, took / 2, "reproduce")
    tables = [
        sorted((p.name, p.read_text()) for p in (place.root / name).rglob("tables/*/*.csv"))
        for name in ("straight", "root")
    ]
    count.must(tables[0] and tables[0] == tables[1], "a killed table differs")
    count.must(not leftovers(place.root / "root"), f"left behind: {leftovers(place.root)}")
    place.remove()
    count.end()


if __name__ == "__main__":
    main()
