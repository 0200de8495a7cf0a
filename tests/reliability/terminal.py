#!/usr/bin/env python3
"""A terminal that goes away, or that can do little: real pseudo-terminals, real signals.

    tests/reliability/terminal.py target/release/uq4ct
"""

import json
import os
import pty
import re
import select
import signal
import threading
import time
import urllib.request

from common import SMALL, Count, Place, arguments, checkpoints, wait_for

# Long enough to be watched.
LONG = [word for word in SMALL if word != "--plain"] + ["--set", "train.epochs=400"]


def on_a_terminal(place, words, term="xterm-256color"):
    """Starts the program as the leader of a terminal of its own: its process and the other end."""
    child, end = pty.fork()
    if child == 0:
        os.chdir(place.root)
        os.execve(
            place.program, [str(place.program), *words], {**place.environment, "TERM": term}
        )
    return child, end


def read_until(end, condition, seconds=60):
    """Reads what the program shows until something holds."""
    shown, until = b"", time.time() + seconds
    while time.time() < until and not condition(shown):
        ready, _, _ = select.select([end], [], [], 0.05)
        if ready:
            try:
                shown += os.read(end, 65536)
            except OSError:
                break
    return shown


def ended(child, seconds=60):
    """Waits for a process: exit code and processor time; nothing if it does not end."""
    until = time.time() + seconds
    while time.time() < until:
        found, status, used = os.wait4(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.wait4(child, 0)
    return None


def dashboard(place, count, times):
    """The window is closed while the dashboard runs."""
    for number in range(times):
        name = f"closed{number}"
        child, end = on_a_terminal(place, [*LONG, "--run", name])
        run = place.root / name
        shown = read_until(end, lambda _: checkpoints(run))
        count.must(b"\x1b[" in shown, "no dashboard on a terminal")
        os.close(end)
        began = time.time()
        end_of = ended(child)
        if count.must(end_of is not None, "does not end once its terminal is closed"):
            count.must(end_of[0] == 130, f"closed: exit code {end_of[0]}")
            count.saw("closed terminals: saved and ended")
            count.must(time.time() - began < 30, "closed: takes long to end")
        before = checkpoints(run)[-1]
        child, end = on_a_terminal(place, [*LONG, "--run", name, "--resume"])
        read_until(end, lambda _: checkpoints(run) and checkpoints(run)[-1] > before)
        count.must(checkpoints(run)[-1] > before, "closed: does not go on")
        os.write(end, b"q")
        read_until(end, lambda _: False, 3)
        end_of = ended(child)
        count.must(end_of is not None and end_of[0] == 130, f"q: {end_of}")
        count.saw("stops by q")

    for name, words in [("goes-on", ["--on-hangup", "go-on"])]:
        short = [word.replace("epochs=400", "epochs=20") for word in LONG]
        child, end = on_a_terminal(place, [*short, "--run", name, *words])
        run = place.root / name
        read_until(end, lambda _: checkpoints(run))
        os.close(end)
        end_of = ended(child, 300)
        if count.must(end_of is not None, "go-on: does not end"):
            count.must(end_of[0] == 0, f"go-on: exit code {end_of[0]}")
            count.must((run / "report.html").is_file(), "go-on: no report")
            lines = (run / "lines.log").read_text()
            count.must("step " in lines and "\x1b" not in lines, f"go-on: lines {lines[:200]}")
            count.saw("trainings that went on without a terminal")


def idle(place, count):
    """A closed terminal costs nothing: the processor's time from closing to the end of the step."""
    slow = [*LONG, "--run", "idle", "--set", "adapter.rank=4", "--on-hangup", "go-on"]
    child, end = on_a_terminal(place, slow)
    run = place.root / "idle"
    read_until(end, lambda _: checkpoints(run))
    os.close(end)
    time.sleep(1)
    # Threads that read the dead terminal would do so tens of thousands of times a second (34,000
    # were seen); a quick training reads its own memory some hundred times.
    reads = lambda: int(re.search(r"syscr: (\d+)", open(f"/proc/{child}/io").read())[1])
    try:
        before = reads()
        time.sleep(2)
        seen = (reads() - before) / 2
        count.must(seen < 5000, f"{seen:.0f} reads a second without a terminal")
        count.saw(f"reads a second without a terminal: {seen:.0f}")
    except OSError as error:
        count.must(False, f"idle: {error}")
    os.kill(child, signal.SIGTERM)
    count.must(ended(child) is not None, "go-on: does not end by SIGTERM")


def dumb(place, count):
    """A terminal that only prints gets lines."""
    for term in ("dumb", ""):
        child, end = on_a_terminal(place, [w for w in SMALL if w != "--plain"], term)
        shown = read_until(end, lambda _: False, 60)
        count.must(ended(child) is not None, "dumb: does not end")
        count.must(b"\x1b" not in shown and b"step 1/" in shown, f"TERM={term!r}: {shown[:300]!r}")
        count.saw("dumb terminals without escape sequences")
        os.close(end)
        place.remove()
        place.root.mkdir()


def signals(place, count):
    """SIGHUP without a dashboard, and as nohup sets it."""
    plain = [*LONG, "--plain", "--run"]
    child = place.start(*plain, "hup")
    count.must(wait_for(lambda: checkpoints(place.root / "hup")), "no checkpoint")
    child.send_signal(signal.SIGHUP)
    child.send_signal(signal.SIGHUP)
    out, err = child.communicate(timeout=60)
    count.must(child.returncode == 130 and b"--resume" in err, f"SIGHUP: {child.returncode} {err!r}")
    count.must(b"\x1b" not in out + err, "escape sequences off a terminal")
    count.saw("SIGHUP: saved and ended")
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    child = place.start(*plain, "nohup", preexec_fn=ignore)
    count.must(wait_for(lambda: checkpoints(place.root / "nohup")), "no checkpoint")
    child.send_signal(signal.SIGHUP)
    time.sleep(1)
    count.must(child.poll() is None, "nohup: ended by SIGHUP")
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    count.must(child.returncode == 130, f"SIGTERM: {child.returncode}")
    count.saw("nohup: went on")


def server(place, count, requests=40):
    """Requests that have begun are answered, whichever signal ends the server."""
    for sent in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        child = place.start("serve", "run", "--port", "0")
        line = child.stdout.readline().decode()
        address = line.split()[-1]
        body = {"question": "is the sky blue", "choices": ["true", "false"]}
        answers = []

        def ask():
            request = urllib.request.Request(
                f"{address}/v1/answers",
                json.dumps({"questions": [body] * 64}).encode(),
                {"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    answers.append(reply.status)
            except OSError as error:
                answers.append(str(error))

        threads = [threading.Thread(target=ask) for _ in range(requests)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        child.send_signal(sent)
        for thread in threads:
            thread.join()
        child.communicate(timeout=90)
        good = answers.count(200)
        count.must(good == requests, f"{sent.name}: {good} of {requests} answered: {answers}")
        count.must(child.returncode == 0, f"serve, {sent.name}: {child.returncode}")
        count.saw(f"requests answered through {sent.name}: {good} of {requests}")


def logs(place, count):
    """No escape sequence in a log, whatever the data holds."""
    row = {"question": "\x1b[31mred\x1b]0;title\x07\u009b2J?", "choices": ["a\x1b[2J", "b"]}
    (place.root / "odd.jsonl").write_text(json.dumps({**row, "answer": 0}) + "\n")
    for words in (
        ["data", "check", "odd.jsonl", "--model", "none"],
        ["data", "check", "odd.jsonl", "--model", "tiny"],
        ["data", "check", "odd.jsonl", "--model", "none", "--json"],
        ["predict", "run", "--question", row["question"], "--choice", "a\x1b[2J", "--choice", "b"],
        ["predict", "run", "--input", "odd.jsonl"],
        ["train", "--model", "tiny", "--dataset", "\x1b[31mx"],
    ):
        _, out, err = place.run(*words)
        count.must("\x1b" not in out + err and "\u009b" not in out + err, f"{words}: {out!r} {err!r}")
        count.saw("outputs without escape sequences")
    place.environment["RUST_LOG"] = "debug"
    _, out, err = place.run(*SMALL, "--run", "logged")
    del place.environment["RUST_LOG"]
    count.must("\x1b" not in out + err, "a log to a file holds escape sequences")
    count.saw("outputs without escape sequences")


def main():
    """Each in turn."""
    flags = arguments(__doc__, times=5)
    place, count = Place(flags.program), Count("terminal")
    dumb(place, count)
    place.succeeds(*SMALL, "--run", "run")
    dashboard(place, count, 1 if flags.short else flags.times)
    idle(place, count)
    signals(place, count)
    logs(place, count)
    server(place, count, 10 if flags.short else 40)
    place.remove()
    count.end()


if __name__ == "__main__":
    main()
