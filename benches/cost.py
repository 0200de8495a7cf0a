#!/usr/bin/env python3
"""What each method costs, on a real model and real questions: time and memory.

    benches/cost.py --program PATH/TO/uq4ct [--csv FILE] [--model NAME] [--methods a,b]
                    [--steps N] [--questions N]
    benches/cost.py --from FILE

Trains a few steps and answers a few questions of each method, each in a process of its own, and
prints results/cost.md; --from prints it again from what --csv wrote. Takes about 20 minutes on 2
cores. Leave the machine alone meanwhile.
Linux: peak memory is what the system says of a process that has ended.
"""
import argparse
import csv
import json
import os
import statistics
import sys
import tempfile
import time

# The method, and whose training it asks.
METHODS = {
    "base": "base",
    "lora": "lora",
    "mc_dropout": "lora",
    "deep_ensemble": "deep_ensemble",
    "laplace": "lora",
    "laplace-last": "lora",
    "mixlora": "mixlora",
    "uq4ct": "uq4ct",
    "uq4ct-delta": "uq4ct-delta",
    "uq4ct-answer": "uq4ct-answer",
    "spuq": "lora",
    "checkpoint_ensemble": "lora",
    "tfb": "lora",
    "blob": "blob",
}
COLUMNS = {
    "method": "Method",
    "trained_parameters": "trained parameters",
    "step_seconds": "training, s a step",
    "training_mib": "training, peak MiB",
    "fit_seconds": "fit, s",
    "forward_passes": "forward passes a question",
    "question_seconds": "s a question",
    "answering_mib": "fit and answers, peak MiB",
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--program", help="the uq4ct to measure")
parser.add_argument("--csv", help="where the figures are written")
parser.add_argument("--from", dest="recorded", help="print what --csv wrote, and measure nothing")
parser.add_argument("--model", default="smollm2-135m")
parser.add_argument("--dataset", default="openbookqa", help="that is trained on")
parser.add_argument("--on", default="arc-easy", help="that is answered; another one")
parser.add_argument("--methods", default=",".join(METHODS))
parser.add_argument("--steps", type=int, default=8, help="of training")
parser.add_argument("--questions", type=int, default=60, help="to answer")
parser.add_argument("--set", action="append", default=["data.scoring=cloze"], help="a setting, of all methods")
parser.add_argument("--device", default="auto")
options = parser.parse_args()


def run(*command):
    """Seconds and the process's peak memory in MiB."""
    began = time.time()
    with tempfile.TemporaryFile() as said:
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=[
            (os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)])
        _, status, used = os.wait4(pid, 0)
        if status:
            said.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{said.read().decode(errors='replace')[-2000:]}")
    return time.time() - began, used.ru_maxrss / 1024


def train(method, directory):
    """Trained parameters, seconds a step of all members together, peak memory."""
    settings = options.set + ["data.train_limit=600", "data.held_out_limit=1", "data.test_limit=1"]
    if method != "base":
        settings.append(f"train.max_steps={options.steps}")
    if method == "lora":
        settings.append("train.snapshots=3")  # for checkpoint_ensemble
    _, peak = run(options.program, "train", "--dataset", options.dataset, "--method", method, "--model", options.model,
                  "--device", options.device, "--plain", "--run", directory, *(part for s in settings for part in ("--set", s)))
    with open(f"{directory}/data.json") as file:
        parameters = json.load(file)["trainable_parameters"]
    members = [path for path, _, files in os.walk(directory) if "metrics.jsonl" in files]
    seconds = 0.0
    for member in members:
        with open(f"{member}/metrics.jsonl") as file:
            ends = [row["seconds"] for row in map(json.loads, file) if row["split"] == "train"]
        steps = [later - earlier for earlier, later in zip(ends, ends[1:])]
        seconds += statistics.median(steps) if steps else 0.0
    # The base model has no members: nothing was trained.
    return {"trained_parameters": parameters * len(members), "step_seconds": round(seconds, 3),
            "training_mib": round(peak) if members else 0}


def answer(method, trained, directory):
    """Seconds and passes a question, seconds beside the answers, peak memory."""
    other = [] if method == trained else ["--method", method]
    seconds, peak = run(options.program, "evaluate", directory, "--on", options.on, "--limit", str(options.questions),
                        "--device", options.device, *other)
    newest = max((os.path.join(path, name) for path, _, files in os.walk(f"{directory}/evaluation") for name in files
                  if name == "cost.json"), key=os.path.getmtime)
    with open(newest) as file:
        cost = json.load(file)
    return {"forward_passes": cost["forward_passes"], "question_seconds": round(cost["seconds_per_question"], 3),
            "rest": seconds - cost["seconds_per_question"] * cost["questions"], "answering_mib": round(peak)}


def measured():
    with tempfile.TemporaryDirectory() as directory:
        trainings, rows = {}, []
        for method in options.methods.split(","):
            trained = METHODS[method]
            if trained not in trainings:
                trainings[trained] = train(trained, f"{directory}/{trained}")
            rows.append({"method": method, **trainings[trained], **answer(method, trained, f"{directory}/{trained}")})
            print(rows[-1], file=sys.stderr)
    # Loading model and data and asking the base model take the same time for all that adapt it;
    # what a method needs beyond that is its fit.
    loading = min(row["rest"] for row in rows if row["method"] != "base" or len(rows) == 1)
    for row in rows:
        beside = row.pop("rest") - loading
        row["fit_seconds"] = round(beside, 1) if row["method"] in ("laplace", "laplace-last", "tfb") else 0
    return [{name: row[name] for name in COLUMNS} for row in rows]


if options.recorded:
    with open(options.recorded, newline="") as file:
        rows = list(csv.DictReader(file))
elif options.program:
    rows = measured()
else:
    parser.error("--program or --from is needed")
if options.csv:
    with open(options.csv, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
print("# What each method costs\n")
print("| " + " | ".join(COLUMNS.values()) + " |")
print("|---|" + "---:|" * (len(COLUMNS) - 1))
for row in rows:
    print("| " + " | ".join(str(row[name]) for name in COLUMNS) + " |")
