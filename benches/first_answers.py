#!/usr/bin/env python3
"""First answers of several trainings of the same questions: how right and how calibrated each model
was while it learned, on questions that it had not met before.

Usage: first_answers.py LABEL=RUN.. > FILE.csv     collects the second half of finished trainings'
                                                   `prequential.jsonl`
       first_answers.py --from FILE.csv.gz         prints the table

A single evaluation shows the adapter of the last step. First answers are those of all adapters on
the way, each to questions that it has not learned from (Dawid 1984). Differences are paired by
question; their 95 % intervals are of a bootstrap over questions.
"""

import csv
import gzip
import json
import math
import random
import sys

BINS = 15
RESAMPLES = 400


def collect(words):
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["row", "question", "step", "label", "probabilities", "flu"])
    for word in words:
        label, run = word.split("=", 1)
        with open(f"{run}/prequential.jsonl", encoding="utf-8") as file:
            answers = [json.loads(line) for line in file]
        half = max(answer["step"] for answer in answers) // 2
        for answer in (answer for answer in answers if answer["step"] > half):
            numbers = " ".join(f"{p:.4f}" for p in answer["probabilities"])
            flu = "" if answer["flu"] is None else f"{answer['flu']:.4f}"
            out.writerow([label, answer["id"], answer["step"], answer["label"], numbers, flu])


def read(path):
    """Rows by label, each `(confidence, right, NLL, FLU)` of a question that all have, and the step
    before them."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    half = min(int(line["step"]) for line in lines) - 1
    rows = {}
    for line in lines:
        p = [float(value) for value in line["probabilities"].split()]
        answer = max(range(len(p)), key=p.__getitem__)
        label = int(line["label"])
        flu = float(line["flu"]) if line["flu"] else None
        told = (p[answer], answer == label, -math.log(max(p[label], 1e-4)), flu)
        rows.setdefault(line["row"], {})[line["question"]] = told
    shared = sorted(set.intersection(*(set(questions) for questions in rows.values())))
    return {label: [questions[q] for q in shared] for label, questions in rows.items()}, half


def ece(rows):
    bins = [[0.0, 0] for _ in range(BINS)]
    for confidence, right, _, _ in rows:
        place = bins[min(math.ceil(confidence * BINS) - 1, BINS - 1)]
        place[0] += confidence
        place[1] += right
    return sum(abs(confidence - right) for confidence, right in bins) / len(rows)


def figures(rows):
    n = len(rows)
    return 100 * sum(r[1] for r in rows) / n, 100 * ece(rows), sum(r[2] for r in rows) / n


def auroc(rows):
    """Share of pairs of a right and a wrong answer in which the right one has the higher FLU, in
    percent."""
    ranked = sorted(rows, key=lambda r: r[3])
    ranks, place = {}, 0
    while place < len(ranked):
        end = place
        while end < len(ranked) and ranked[end][3] == ranked[place][3]:
            end += 1
        ranks[ranked[place][3]] = (place + 1 + end) / 2
        place = end
    right = [ranks[r[3]] for r in rows if r[1]]
    pairs = len(right) * (len(rows) - len(right))
    return 100 * (sum(right) - len(right) * (len(right) + 1) / 2) / pairs


def differences(rows, reference):
    """Each figure's difference with its interval."""
    n, draw = len(rows), random.Random(0)
    drawn = []
    for _ in range(RESAMPLES):
        places = [draw.randrange(n) for _ in range(n)]
        both = [figures([some[i] for i in places]) for some in (rows, reference)]
        drawn.append([a - b for a, b in zip(*both)])
    cells = []
    for i, (a, b, digits) in enumerate(zip(figures(rows), figures(reference), (1, 1, 3))):
        ranked = sorted(some[i] for some in drawn)
        low, high = ranked[RESAMPLES * 25 // 1000], ranked[RESAMPLES * 975 // 1000 - 1]
        cells.append(f"{a - b:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]")
    return cells


def table(path):
    rows, half = read(path)
    n = len(next(iter(rows.values())))
    print(f"# First answers after step {half}\n")
    print(f"{n} training questions, each answered before the first step that learned from it. Shares in percent.\n")
    print("| | ACC | ECE | NLL | mean confidence | mean FLU | AUROC of FLU |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for label, answers in rows.items():
        accuracy, error, loss = figures(answers)
        confidence = 100 * sum(r[0] for r in answers) / n
        flu = ["-", "-"]
        if answers[0][3] is not None:
            flu = [f"{100 * sum(r[3] for r in answers) / n:.1f}", f"{auroc(answers):.1f}"]
        print(f"| {label} | {accuracy:.1f} | {error:.1f} | {loss:.3f} | {confidence:.1f} | {' | '.join(flu)} |")
    print("\n| difference | ACC | ECE | NLL |")
    print("|---|---:|---:|---:|")
    labels = list(rows)
    for first, second in zip(labels[1:], labels):
        cells = differences(rows[first], rows[second])
        print(f"| {first} less {second} | {' | '.join(cells)} |")


if len(sys.argv) == 3 and sys.argv[1] == "--from":
    table(sys.argv[2])
elif len(sys.argv) > 1 and all("=" in word for word in sys.argv[1:]):
    collect(sys.argv[1:])
else:
    sys.exit(__doc__)
