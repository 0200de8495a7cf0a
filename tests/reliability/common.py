"""What the scripts share: the program in a directory of its own, and a count of what was seen."""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

TRAIN = ["train", "--model", "tiny", "--dataset", "boolq", "--plain", "--method", "calibrated"]
# Chunks of two steps: many checkpoints in little time.
SMALL = [
    *TRAIN,
    "--set",
    "train.checkpoint_every=2",
    "--set",
    "train.batch_size=8",
    "--set",
    "evaluation.bootstrap=10",
]

# A child inherits what its parent ignores, and nohup ignores SIGHUP.
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def arguments(description, **more):
    """The flags of a script: the program, its length, its seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("program", type=Path, help="the built uq4ct")
    parser.add_argument("--short", action="store_true", help="a minute instead of all")
    parser.add_argument("--seed", type=int, default=1)
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    found = parser.parse_args()
    found.program = found.program.resolve()
    random.seed(found.seed)
    return found


class Place:
    """A directory in which the program runs, without this machine's data, caches and network."""

    def __init__(self, program):
        self.program = program
        self.root = Path(tempfile.mkdtemp(prefix="uq4ct-reliability-"))
        self.environment = {
            **{k: v for k, v in os.environ.items() if k not in ("UQ4CT_DATA", "RUST_LOG")},
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(self.root / "hf"),
            "UQ4CT_CACHE": str(self.root / "cache"),
            "NO_COLOR": "",
        }

    def start(self, *words, **more):
        """Starts the program."""
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        given |= {"stderr": subprocess.PIPE, **more}
        return subprocess.Popen(
            [str(self.program), *map(str, words)], cwd=self.root, env=self.environment, **given
        )

    def run(self, *words, timeout=300):
        """Runs it to its end: exit code, standard output, standard error."""
        child = self.start(*words)
        out, err = child.communicate(timeout=timeout)
        return child.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def succeeds(self, *words):
        """Runs it, which must succeed; gives what it printed."""
        code, out, err = self.run(*words)
        if code != 0:
            sys.exit(f"{' '.join(map(str, words))} ended with {code}:\n{err}")
        return out

    def copy(self, name, to):
        """A fresh copy of a directory."""
        shutil.rmtree(self.root / to, ignore_errors=True)
        shutil.copytree(self.root / name, self.root / to)
        return self.root / to

    def questions(self, count):
        """A file of questions."""
        path = self.root / "questions.jsonl"
        rows = (
            {"question": f"is number {i} larger than {i * 7 % 50}?", "choices": ["true", "false"]}
            for i in range(count)
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path.name

    def remove(self):
        """Leaves nothing behind."""
        shutil.rmtree(self.root, ignore_errors=True)


class Count:
    """What was seen, and what should not have been."""

    def __init__(self, what):
        self.what, self.seen, self.wrong = what, Counter(), []

    def saw(self, kind):
        """One more of a kind."""
        self.seen[kind] += 1

    def must(self, holds, message):
        """Remembers what does not hold."""
        if not holds:
            self.wrong.append(message)
            print(f"WRONG {self.what}: {message}", flush=True)
        return holds

    def end(self):
        """Prints the figures; the exit code says whether all held."""
        seen = ", ".join(f"{n} {kind}" for kind, n in sorted(self.seen.items()))
        print(f"{self.what}: {seen}; {len(self.wrong)} wrong", flush=True)
        sys.exit(1 if self.wrong else 0)


def wait_for(condition, seconds=60):
    """Waits until something holds."""
    until = time.time() + seconds
    while time.time() < until:
        if condition():
            return True
        time.sleep(0.01)
    return False


def kill(child):
    """Ends a process at once."""
    child.send_signal(signal.SIGKILL)
    child.communicate()


def checkpoints(run):
    """The steps of a run's checkpoints."""
    found = []
    for path in (run / "checkpoint").glob("position-*.json"):
        try:
            found.append(json.loads(path.read_text())["steps"])
        except (OSError, ValueError):
            pass
    return sorted(found)


def outcome(run):
    """What a training leaves that must not depend on how it got there."""
    files = ["adapter/adapter.bpk", "adapter/temperature.json", "prequential.jsonl"]
    files += [f"evaluation/{name}/predictions.jsonl" for name in ("held-out", "boolq")]
    content = {name: (run / name).read_bytes() for name in files}
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    # Speed is measured.
    content["metrics.jsonl"] = [
        (l["split"], l["step"], {k: v for k, v in l["values"].items() if k != "tokens_per_second"})
        for l in lines
    ]
    return content
