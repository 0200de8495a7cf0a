#!/usr/bin/env python3
"""`uq4ct serve` under load: eight clients that ask rightly, slowly, too much and wrongly.

    tests/load.py RUN [--program FILE] [--seconds 300] [--clients 8] [--seed 1] [-- FLAGS OF serve]

Starts the server of a finished run itself and says at the end what came back. Fails unless

- every status of 500 and above is 503 or 504, with Retry-After;
- every answer is the one that `uq4ct predict` gives;
- what is wrong is refused with its own status, and what is right is answered;
- resident memory in the last half grows by at most 5 % over that after the first tenth.

Python's standard library alone. The memory is read from /proc, where there is one.
"""
import argparse, collections, json, os, random, re, signal, socket, subprocess, sys, tempfile, threading, time

WORDS = """river stone cloud engine market winter garden signal paper castle bridge letter window number forest
doctor""".split()


def questions(count, rng, labels):
    """Questions of two to four choices, or of the given ones, of very different lengths."""
    found = []
    for number in range(count):
        length = rng.choice([4, 8, 15, 30, 80])
        text = "Which of these fits the " + " ".join(rng.choice(WORDS) for _ in range(length)) + "?"
        choices = labels or rng.sample(WORDS, rng.randint(2, 4))
        found.append({"id": f"q{number}", "question": text, "choices": choices})
    return found


class Connection:
    """A socket on which requests are written by hand, whole or not."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=120)
        self.head = f"Host: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"

    def send(self, path, body, length=None, more=""):
        length = len(body) if length is None else length
        head = f"POST {path} HTTP/1.1\r\n{self.head}{more}Content-Length: {length}\r\n\r\n"
        self.socket.sendall(head.encode() + body)

    def receive(self):
        """Status, headers and body of a response. Interim ones are read over; None: none came."""
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                part = self.read()
                if not part:
                    return None, {}, b""
                data += part
            head, _, data = data.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            if status >= 200:
                break
        headers = {key.lower(): value for key, value in (line.split(": ", 1) for line in lines[1:])}
        while len(data) < int(headers.get("content-length", 0)):
            part = self.read()
            if not part:
                return None, headers, data
            data += part
        return status, headers, data

    def read(self):
        try:
            return self.socket.recv(1 << 16)
        except ConnectionError:
            return b""

    def close(self):
        self.socket.close()


class Load:
    def __init__(self, port, asked, expected, seed):
        self.port, self.asked, self.expected, self.seed = port, asked, expected, seed
        self.lock = threading.Lock()
        self.counts = collections.Counter()
        self.times = collections.defaultdict(list)
        self.wrong = []
        self.worst = 0.0

    def note(self, kind, status, began):
        with self.lock:
            self.counts[kind, status] += 1
            self.times[kind].append(time.monotonic() - began)

    def fail(self, reason):
        with self.lock:
            self.wrong.append(reason)

    def judge(self, kind, began, response, allowed, wanted=()):
        """Counts a response, and says what is not as promised."""
        status, headers, body = response
        self.note(kind, status, began)
        if status in (503, 504):
            if not headers.get("retry-after", "").isdigit():
                self.fail(f"{kind}: {status} without Retry-After: {headers}")
            return
        if status not in allowed:
            self.fail(f"{kind}: {status}, expected {allowed}: {body[:300]!r}")
            return
        if status >= 400:
            if len(json.loads(body)["error"]) > 400:
                self.fail(f"{kind}: a message of {len(body)} bytes")
            return
        answers = json.loads(body)
        answers = answers.get("answers", [answers])
        if [answer["id"] for answer in answers] != [question["id"] for question in wanted]:
            self.fail(f"{kind}: other questions than were asked")
        for answer in answers:
            known = self.expected[answer["id"]]
            pairs = list(zip(answer["probabilities"], known["probabilities"]))
            for key in ("probability", "confidence", "flu"):
                if known.get(key) is not None:
                    pairs.append((answer[key], known[key]))
            off = max(abs(a - b) for a, b in pairs)
            with self.lock:
                self.worst = max(self.worst, off)
            if off > 1e-4 or len(answer["probabilities"]) != len(known["probabilities"]):
                self.fail(f"{kind}: {answer} is not {known}")

    def client(self, number, until):
        rng = random.Random(f"{self.seed} {number}")
        kinds = [(self.one, 50), (self.several, 15), (self.slow, 8), (self.half_closed, 5), (self.leaves, 4),
                 (self.too_long, 4), (self.too_many, 3), (self.malformed, 7), (self.no_http, 4)]
        while time.monotonic() < until:
            kind, = rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
            connection = None
            try:
                connection = Connection(self.port)
                kind(rng, connection, time.monotonic())
            except Exception as error:  # noqa: BLE001
                self.fail(f"{kind.__name__}: {error!r}")
            finally:
                if connection:
                    connection.close()

    def one(self, rng, connection, began):
        for _ in range(rng.randint(1, 4)):
            began = time.monotonic()
            question = rng.choice(self.asked)
            connection.send("/v1/answer", json.dumps(question).encode())
            self.judge("one", began, connection.receive(), (200,), [question])

    def several(self, rng, connection, began):
        chosen = rng.sample(self.asked, rng.randint(2, 16))
        connection.send("/v1/answers", json.dumps({"questions": chosen}).encode())
        self.judge("several", began, connection.receive(), (200,), chosen)

    def slow(self, rng, connection, began):
        question = rng.choice(self.asked)
        body = json.dumps(question).encode()
        head = f"POST /v1/answer HTTP/1.1\r\n{connection.head}Content-Length: {len(body)}\r\n\r\n".encode()
        for part in (head[:20], head[20:], body[:10], body[10:]):
            connection.socket.sendall(part)
            time.sleep(rng.uniform(0.1, 0.6))
        self.judge("slow", began, connection.receive(), (200,), [question])

    def half_closed(self, rng, connection, began):
        question = rng.choice(self.asked)
        connection.send("/v1/answer", json.dumps(question).encode())
        connection.socket.shutdown(socket.SHUT_WR)
        self.judge("half-closed", began, connection.receive(), (200,), [question])

    def leaves(self, rng, connection, began):
        chosen = [rng.choice(self.asked) for _ in range(100)]
        connection.send("/v1/answers", json.dumps({"questions": chosen}).encode())
        time.sleep(rng.uniform(0, 0.3))
        self.note("leaves", None, began)

    def too_long(self, rng, connection, began):
        body = json.dumps({"question": "x" * (3 << 20), "choices": ["a", "b"]}).encode()
        try:
            connection.send("/v1/answer", body)
        except ConnectionError:
            pass
        self.judge("too long", began, connection.receive(), (413,))

    def too_many(self, rng, connection, began):
        chosen = [self.asked[0]] * 300
        connection.send("/v1/answers", json.dumps({"questions": chosen}).encode())
        self.judge("too many", began, connection.receive(), (422,))

    def malformed(self, rng, connection, began):
        good = json.dumps(rng.choice(self.asked))
        body, status = rng.choice([
            (good[:rng.randint(1, len(good) - 1)], 400), ("[" * 5000, 422), ("", 400), ("\xff\xfe", 400),
            (json.dumps({"question": "q", "choices": ["a"]}), 422), (json.dumps({"question": 7, "choices": []}), 422),
            (json.dumps({"question": "q", "choices": ["a", "b"], "y" * 5000: 1}), 422),
        ])
        connection.send("/v1/answer", body.encode("latin-1"))
        self.judge("malformed", began, connection.receive(), (status,))

    def no_http(self, rng, connection, began):
        noise = rng.choice([
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
            b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 50 + b"hello\r\n\r\n", rng.randbytes(300) + b"\r\n\r\n",
        ])
        connection.socket.sendall(noise)
        connection.socket.shutdown(socket.SHUT_WR)
        status, _, _ = connection.receive()
        self.note("no http", status, began)
        if status is not None and not 400 <= status < 500 and status != 505:
            self.fail(f"no http: {status} to {noise!r}")


def resident(pid):
    """Megabytes of a process, if the system says."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024
    except (OSError, TypeError):
        return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--program", default="target/release/uq4ct")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--choices", help="for a run on one set of answers: true,false")
    parser.add_argument("flags", nargs="*", help="flags of serve, after --")
    args = parser.parse_args()

    asked = questions(60, random.Random(args.seed), args.choices and args.choices.split(","))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "questions.jsonl")
        with open(path, "w") as file:
            file.writelines(json.dumps(question) + "\n" for question in asked)
        told = subprocess.run([args.program, "predict", args.run, "--input", path, "--batch", "1"], check=True,
                              stdout=subprocess.PIPE, text=True)
    expected = {answer["id"]: answer for answer in map(json.loads, told.stdout.splitlines())}
    command = [args.program, "serve", args.run, "--port", "0", *args.flags]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline().rsplit(":", 1)[1])
        load = Load(port, asked, expected, args.seed)
        began = time.monotonic()
        until = began + args.seconds
        clients = [threading.Thread(target=load.client, args=(number, until)) for number in range(args.clients)]
        for client in clients:
            client.start()
        memory = []
        while time.monotonic() < until and server.poll() is None:
            time.sleep(min(1, args.seconds / 20))
            memory.append((time.monotonic() - began, resident(server.pid)))
        for client in clients:
            client.join()
        if server.poll() is not None:
            load.fail(f"the server ended with {server.returncode}")
        stopped = time.monotonic()
        server.send_signal(signal.SIGTERM)
        code = server.wait(timeout=120)
        stopped = time.monotonic() - stopped
        if code != 0:
            load.fail(f"the server ended with {code}")
    finally:
        server.kill()

    print(f"{'kind':<12} {'status':>6} {'requests':>8}")
    for (kind, status), count in sorted(load.counts.items(), key=str):
        print(f"{kind:<12} {status or 'none':>6} {count:>8}")
    for kind, times in sorted(load.times.items()):
        times.sort()
        middle, late = times[len(times) // 2], times[len(times) * 99 // 100]
        print(f"{kind:<12} median {1e3 * middle:.0f} ms, 99 % {1e3 * late:.0f} ms, most {1e3 * times[-1]:.0f} ms")
    print(f"largest difference from predict: {load.worst:.1e}; ended {stopped:.2f} s after SIGTERM")
    known = [(at, size) for at, size in memory if size]
    if known:
        early = max(size for at, size in known if at <= max(args.seconds / 10, known[0][0]))
        late = max(size for at, size in known if at >= min(args.seconds / 2, known[-1][0]))
        grown = f"{late / early - 1:+.1%}"
        print(f"resident memory: {early:.0f} MB after a tenth, {late:.0f} MB at most in the last half ({grown})")
        if late > 1.05 * early and args.seconds >= 60:
            load.fail(f"memory grew from {early:.0f} to {late:.0f} MB")
    if not any(status == 200 for _, status in load.counts):
        load.fail("nothing was answered")
    for reason, count in collections.Counter(load.wrong).most_common(20):
        print(f"WRONG ({count} times): {reason}")
    return 1 if load.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
