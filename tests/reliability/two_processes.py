#!/usr/bin/env python3
"""Two or three processes on one directory or one output: one works, the others say who does, or
wait. Nothing is written twice.

    tests/reliability/two_processes.py target/release/uq4ct
"""

import time

from common import SMALL, Count, Place, arguments, kill, outcome, wait_for


def together(place, *commands):
    """Starts commands at once; exit code and standard error of each."""
    children = [place.start(*words) for words in commands]
    ends = [child.communicate(timeout=600) for child in children]
    return [(child.returncode, end[1].decode()) for child, end in zip(children, ends)]


def one_works(count, what, ends):
    """One ended well, each other was refused by the process that holds the place."""
    good = [end for end in ends if end[0] == 0]
    refused = [err for code, err in ends if code == 1 and "works on it" in err]
    known = [err for code, err in ends if code == 1 and ("holds a run" in err or "is not empty" in err)]
    count.must(
        len(good) >= 1 and len(good) + len(refused) + len(known) == len(ends), f"{what}: {ends}"
    )
    count.saw(f"{what}: refused by the other's process" if refused else f"{what}: one after another")


def main():
    """Every verb that writes."""
    flags = arguments(__doc__, rounds=8)
    rounds = 1 if flags.short else flags.rounds
    place, count = Place(flags.program), Count("two processes")
    place.succeeds(*SMALL, "--run", "whole")
    whole = outcome(place.root / "whole")
    questions = place.questions(200 if flags.short else 1000)
    for number in range(rounds):
        run = place.root / f"run{number}"
        train = [*SMALL, "--run", run.name]
        first = place.start(*train)
        wait_for(lambda: (run / "checkpoint").is_dir())
        ends = together(place, [*train, "--resume"], [*train, "--overwrite"])
        _, err = first.communicate()
        one_works(count, "train", [(first.returncode, err.decode()), *ends])
        place.run(*train, "--resume")
        count.must(outcome(run) == whole, "two trainings: another end than one")

        # A lock of a process that is gone does not hold.
        run = place.root / f"killed{number}"
        train = [*SMALL, "--run", run.name]
        child = place.start(*train)
        wait_for(lambda: (run / "lock.json").exists() and (run / "config.toml").exists())
        kill(child)
        count.must((run / "lock.json").exists(), "a killed process leaves its lock")
        began = time.time()
        place.succeeds(*train, "--resume")
        count.must(time.time() - began < 60, "a dead process's lock holds")
        count.must(outcome(run) == whole, "a resumed training: another end")
        count.must(not (run / "lock.json").exists(), "a finished process leaves its lock")
        count.saw("locks of dead processes taken over")

        answers = f"answers{number}.jsonl"
        ask = ["predict", "whole", "--input", questions, "--output", answers]
        one_works(count, "predict", together(place, ask, ask))
        rows = (place.root / answers).read_text().splitlines()
        asked = len((place.root / questions).read_text().splitlines())
        count.must(len(rows) == asked, f"predict: {len(rows)} answers to {asked} questions")
        count.must(not (place.root / f"{answers}.lock").exists(), "predict leaves its lock")

        evaluate = ["evaluate", "whole", "--on", "arc-easy"]
        one_works(count, "evaluate", together(place, evaluate, evaluate))
        export = ["export", "whole", "--format", "uq4ct", "--output", f"export{number}"]
        one_works(count, "export", together(place, export, export))

        root = f"root{number}"
        table = ["reproduce", "table1", "--model", "tiny", "--seeds", "1", "--plain"]
        table += ["--methods", "lora", "--train-limit", "16", "--limit", "8", "--root", root]
        table += ["--set", "evaluation.bootstrap=10"]
        ends = together(place, table, table, table)
        count.must(all(code == 0 for code, _ in ends), f"reproduce: {ends}")
        count.saw("tables by three processes")
        left = [p.name for p in (place.root / root).rglob("*") if p.name.endswith((".tmp", ".part"))]
        left += [str(p) for p in (place.root / root).rglob("lock.json")]
        count.must(not left, f"reproduce leaves {left}")
    place.remove()
    count.end()


if __name__ == "__main__":
    main()
