#!/usr/bin/env python3
"""Damages every file of a run, one at a time: emptied, cut, a bit flipped. What reads the run must
refuse the file by name, fall back and say so, or give what it gives without the damage: never
another answer with exit code 0, never a panic.

    tests/reliability/torn.py target/release/uq4ct
"""

import json
import random
import shutil
import signal

from common import SMALL, Count, Place, arguments, checkpoints, outcome, wait_for

RESUME = [*SMALL, "--run", "damaged", "--resume"]
ASK = ["predict", "damaged", "--input", "questions.jsonl"]
FELL_BACK = ("the one before serves", "training begins again")


def damages(content, flips):
    """A file's content, damaged."""
    if not content:
        return
    yield "emptied", b""
    yield "cut", content[: random.randrange(len(content))]
    lines = content.splitlines(keepends=True)
    if len(lines) > 1:
        yield "a line short", b"".join(lines[:-1])
    for _ in range(flips):
        place = random.randrange(len(content))
        flipped = bytearray(content)
        flipped[place] ^= 1 << random.randrange(8)
        yield f"bit flipped at byte {place}", bytes(flipped)


def verbs(place):
    """The verbs that read a finished run; each with a way to what it found."""

    def read(*names):
        return lambda out: [(place.root / name).read_bytes() for name in names]

    figures = "damaged/evaluation/openbookqa/predictions.jsonl"
    exported = read("exported/uq4ct_adapter.safetensors", "exported/uq4ct_adapter.json")
    export = ["export", "damaged", "--format", "uq4ct", "--output", "exported", "--verify"]
    return {
        "predict": (ASK, lambda out: out),
        "compare": (["compare", "damaged", "--out", "compared"], read("compared/compare.csv")),
        "evaluate": (["evaluate", "damaged", "--on", "openbookqa"], read(figures)),
        "export": (export, exported),
        "train --resume": (RESUME, lambda out: outcome(place.root / "damaged")),
    }


def clean(place):
    """Removes what a verb wrote beside the run."""
    for name in ("exported", "compared"):
        shutil.rmtree(place.root / name, ignore_errors=True)


def judge(place, count, name, how, verb, words, found, expected):
    """Runs a verb on a damaged run."""
    clean(place)
    code, out, err = place.run(*words)
    what = f"{name} {how}, {verb}"
    said = out + err
    if not count.must("panicked" not in said, f"{what}: panic\n{err}"):
        return
    if code == 0:
        seen = found(out)
        if isinstance(seen, dict) and name in seen:
            # The damaged file itself, which this verb need not read.
            seen, expected = dict(seen), dict(expected)
            seen.pop(name), expected.pop(name)
        same = seen == expected
        fell_back = any(text in said for text in FELL_BACK)
        count.must(same, f"{what}: another answer with exit code 0\n{err}")
        count.saw(f"{verb}: " + ("fell back" if fell_back else "unchanged"))
    else:
        # A list of digests is named by what it lists.
        named = name.rsplit("/", 1)[-1] in said or "digests" in name
        count.must(code == 1 and named, f"{what}: ended with {code}, not by name\n{err}")
        count.saw(f"{verb}: refused by name")


def finished(place, count, flips, chosen):
    """Every file of a finished run, by every verb that reads it."""
    place.succeeds(*SMALL, "--run", "run")
    place.succeeds("evaluate", "run", "--on", "arc-easy")
    expected = {}
    for verb, (words, found) in verbs(place).items():
        place.copy("run", "damaged")
        clean(place)
        expected[verb] = found(place.succeeds(*words))
    run = place.root / "run"
    files = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    for name in filter(chosen, files):
        content = (run / name).read_bytes()
        for how, damaged in damages(content, flips):
            for verb, (words, found) in verbs(place).items():
                place.copy("run", "damaged")
                (place.root / "damaged" / name).write_bytes(damaged)
                judge(place, count, name, how, verb, words, found, expected[verb])


def interrupted(place, count, flips, chosen):
    """Every file of a training that was stopped between checkpoints."""
    place.succeeds(*SMALL, "--run", "whole")
    expected = outcome(place.root / "whole")
    while True:
        shutil.rmtree(place.root / "run", ignore_errors=True)
        child = place.start(*SMALL, "--run", "run")
        run = place.root / "run"
        count.must(wait_for(lambda: len(checkpoints(run)) >= 2), "no two checkpoints")
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if not (run / "adapter/adapter.bpk").exists():
            break
    files = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    for name in filter(chosen, files):
        content = (run / name).read_bytes()
        for how, damaged in damages(content, flips):
            if name == "lock.json":
                continue
            place.copy("run", "damaged")
            (place.root / "damaged" / name).write_bytes(damaged)
            found = verbs(place)["train --resume"][1]
            judge(place, count, name, how, "train --resume", RESUME, found, expected)


def export(place, count, flips):
    """Every file of an export, as the start of a training."""
    place.succeeds("export", "run2", "--format", "uq4ct", "--output", "export")
    folder = place.root / "export"
    begin = [*SMALL, "--adapter", "damaged", "--run", "begun", "--set", "train.max_steps=2"]
    read = lambda: (place.root / "begun/adapter/adapter.bpk").read_bytes()
    place.copy("export", "damaged")
    place.succeeds(*begin)
    expected = read()
    for path in sorted(folder.iterdir()):
        for how, damaged in damages(path.read_bytes(), flips):
            place.copy("export", "damaged")
            shutil.rmtree(place.root / "begun", ignore_errors=True)
            (place.root / "damaged" / path.name).write_bytes(damaged)
            judge(
                place, count, path.name, how, "train --adapter", begin, lambda _: read(), expected
            )


def main():
    """A finished run, an interrupted one, an export."""
    flags = arguments(__doc__, flips=3)
    place, count = Place(flags.program), Count("torn")
    place.questions(12)
    relied = ("config", "data.json", "adapter", "held-out/predictions", "boolq/predictions")
    short = lambda name: any(part in name for part in relied) or random.random() < 0.1
    chosen = short if flags.short else lambda name: True
    finished(place, count, 1 if flags.short else flags.flips, chosen)
    place.copy("run", "run2")
    everything = lambda name: not flags.short or "checkpoint" in name or "prequential" in name
    interrupted(place, count, 1 if flags.short else flags.flips, everything)
    export(place, count, 1 if flags.short else flags.flips)
    place.remove()
    count.end()


if __name__ == "__main__":
    main()
