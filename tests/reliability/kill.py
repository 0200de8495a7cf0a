#!/usr/bin/env python3
"""Kills trainings, predictions, evaluations and tables at random moments, and repeats the same
command until it ends: what is left must equal what an unkilled one leaves, byte for byte.

    tests/reliability/kill.py target/release/uq4ct --kills 40
"""

import json
import random
import shutil
import time

from common import SMALL, Count, Place, arguments, kill, outcome

TABLE = ["reproduce", "table1", "--model", "tiny", "--seeds", "1", "--plain"]
TABLE += ["--methods", "lora,uq4ct", "--train-limit", "16", "--limit", "8", "--root", "root"]
TABLE += ["--set", "evaluation.bootstrap=10", "--set", "train.checkpoint_every=2"]


def until_it_ends(place, count, words, kills, longest, kind):
    """Runs a command, killed at most so many times, then to its end: how often it was killed."""
    for killed in range(kills):
        child = place.start(*words())
        until = time.time() + random.uniform(0, longest)
        while time.time() < until and child.poll() is None:
            time.sleep(0.002)
        if child.poll() is not None:
            _, err = child.communicate()
            count.must(child.returncode == 0, f"{kind} ended with {child.returncode}: {err!r}")
            return killed
        kill(child)
        count.saw(f"kills in {kind}")
    code, _, err = place.run(*words())
    count.must(code == 0, f"{kind} ended with {code}: {err}")
    return kills


def rounds(place, count, words, kills, longest, kind, check):
    """Rounds of a few kills each, until there were so many; each is checked and cleared away."""
    left = kills
    while left > 0:
        some = min(left, random.randint(1, 5))
        left -= until_it_ends(place, count, words, some, 0.9 * longest, kind)
        check()
        count.saw(f"{kind}: rounds that ended as unkilled ones")


def close(one, other):
    """Whether two answers are one but for rounding."""
    if one.keys() != other.keys() or one["origin"] != other["origin"]:
        return False
    pairs = zip(one["probabilities"], other["probabilities"])
    return one["id"] == other["id"] and all(abs(a - b) < 1e-5 for a, b in pairs)


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
    run = place.root / "run"

    def train():
        begun = (run / "config.toml").is_file()
        return [*SMALL, "--run", "run", *(["--resume"] if begun else [])]

    def trained():
        count.must(outcome(run) == whole, "a killed training ends differently")
        count.must(not leftovers(run), f"left behind: {leftovers(run)}")
        shutil.rmtree(run)

    rounds(place, count, train, flags.kills, took, "training", trained)

    questions = place.questions(100 if flags.short else 1000)
    ask = ["predict", "whole", "--input", questions, "--batch", "4", "--output"]
    began = time.time()
    place.succeeds(*ask, "straight.jsonl")
    took = time.time() - began
    answers = place.root / "killed.jsonl"

    def answered():
        straight = (place.root / "straight.jsonl").read_text().splitlines()
        killed = answers.read_text().splitlines()
        count.must(len(straight) == len(killed), "answers are missing or doubled")
        # A batch that was cut is asked again in other company: last digits may differ.
        alike = [close(json.loads(a), json.loads(b)) for a, b in zip(straight, killed)]
        count.must(all(alike), "a killed predict ends differently")
        answers.unlink()

    rounds(place, count, lambda: [*ask, answers.name], flags.kills, took, "predict", answered)

    evaluate = ["evaluate", "whole", "--on", "arc-easy,openbookqa"]
    began = time.time()
    place.succeeds(*evaluate)
    took = time.time() - began
    sets = [place.root / f"whole/evaluation/{name}" for name in ("arc-easy", "openbookqa")]
    straight = [(path / "predictions.jsonl").read_bytes() for path in sets]

    def evaluated():
        killed = [(path / "predictions.jsonl").read_bytes() for path in sets]
        count.must(straight == killed, "a killed evaluate ends differently")
        for path in sets:
            shutil.rmtree(path)

    evaluated()
    rounds(place, count, lambda: evaluate, flags.kills, took, "evaluate", evaluated)

    began = time.time()
    place.succeeds(*TABLE)
    took = time.time() - began
    read = lambda: sorted(
        (p.name, p.read_text()) for p in (place.root / "root").rglob("tables/*/*.csv")
    )
    table = read()

    def made():
        count.must(table and table == read(), "a killed table differs")
        left = leftovers(place.root / "root")
        count.must(not left, f"left behind: {left}")
        shutil.rmtree(place.root / "root")

    made()
    rounds(place, count, lambda: TABLE, flags.kills, took, "reproduce", made)
    place.remove()
    count.end()


if __name__ == "__main__":
    main()
