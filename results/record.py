"""Copies what tables are printed from out of a reproduce root: record.py ROOT DESTINATION TABLE=FOLDER .. [PREFIX=SHORT ..]

Adapters, checkpoints and event files stay behind; a path that begins with PREFIX is written with SHORT instead. Predictions and figures
are copied as they are, so `uq4ct reproduce TABLE --from DESTINATION` prints the same table from FOLDER's reproduce.toml. What is in DESTINATION
already stays; what has not been finished stays behind.
"""
import pathlib, re, shutil, sys

root, destination = map(pathlib.Path, sys.argv[1:3])
pairs = [argument.split("=", 1) for argument in sys.argv[3:]]
tables = [(name, pathlib.Path(folder)) for name, folder in pairs if (pathlib.Path(folder) / "reproduce.toml").is_file()]
prefixes = [(prefix, short) for prefix, short in pairs if prefix not in dict(tables)]
kept = {"config.toml", "data.json", "environment.json", "metrics.jsonl", "cost.json", "sources.json", "predictions.jsonl"}


def copy(source, target):
    text = source.read_text()
    if source.suffix == ".json":
        for prefix, short in prefixes:
            text = text.replace(prefix, short)
        text = re.sub(r"cargo run --release --bin [\w-]+ --", "uq4ct", text)
        text = re.sub(r" --root \S+", "", text)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def finished(folder):
    """A training with its adapter, an evaluation with the cost of a dataset, a dataset with its own."""
    return any(any(folder.glob(pattern)) for pattern in ("adapter/adapter.*", "evaluation/*/cost.json", "cost.json"))


for part in ("trainings", "evaluations"):
    (destination / part).mkdir(parents=True, exist_ok=True)
    for source in sorted((root / part).rglob("*")):
        inside = source.relative_to(root)
        if source.name not in kept or {"checkpoint", "adapter"} & set(inside.parts) or (destination / inside).exists():
            continue
        if finished(root / part / inside.parts[1]) and ("evaluation" not in inside.parts or finished(source.parent)):
            copy(source, destination / inside)
for name, folder in tables:
    (destination / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "reproduce.toml", destination / name / "reproduce.toml")
print(*(f"{len(list((destination / part).iterdir()))} {part}" for part in ("trainings", "evaluations")), f"in {destination}")
