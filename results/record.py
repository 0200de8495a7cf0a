"""Copies what a table is printed from out of a reproduce root: record.py ROOT TABLE_FOLDER DESTINATION [PREFIX=SHORT ..]

Adapters, checkpoints and event files stay behind; a path that begins with PREFIX is written with SHORT instead. Predictions and figures
are copied as they are, so `uq4ct reproduce TABLE --from DESTINATION` prints the same table.
"""
import json, pathlib, re, shutil, sys

root, table, destination = map(pathlib.Path, sys.argv[1:4])
prefixes = [argument.split("=", 1) for argument in sys.argv[4:]]
kept = {"config.toml", "data.json", "environment.json", "metrics.jsonl", "cost.json", "sources.json", "predictions.jsonl"}


def copy(source, target):
    text = source.read_text()
    if source.suffix == ".json":
        for prefix, short in prefixes:
            text = text.replace(prefix, short)
        text = re.sub(r"cargo run --release --bin [\w-]+ --", "uq4ct", text)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


for part in ("trainings", "evaluations"):
    for source in sorted((root / part).rglob("*")):
        inside = source.relative_to(root)
        if source.name in kept and not {"checkpoint", "adapter"} & set(inside.parts):
            copy(source, destination / inside)
destination.mkdir(parents=True, exist_ok=True)
shutil.copy(table / "reproduce.toml", destination / "reproduce.toml")
known = [len(json.loads(path.read_text())["split"]["used"]) for path in destination.rglob("data.json")]
print(f"{len(known)} trainings and evaluations in {destination}")
