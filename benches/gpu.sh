#!/usr/bin/env bash
# What a GPU does with this project, in one command, without a network and in under eight minutes
# after building:
#     benches/gpu.sh [--device cuda] [--small] [--program FILE] [--out DIR]
# Lines of JSON go to OUT/gpu.jsonl as they come, a table to standard output at the end. Each stage
# has a time limit of its own; one that passes it costs the others nothing but the time. A stage for
# which no time is left of the eight minutes is not run, and says so.
#   cold, warm  seconds to the first step, kernels not yet compiled and compiled
#   step        training steps of SmolLM2-135M's shape
#   nodes       every operation, lean and composed, beside the processor
#   7b          training steps of LLaMA-2-7B's shape in bf16, at 1k, 4k and 8k tokens
#   torch       the same in PyTorch, where it is there (UQ4CT_PYTHON names a Python that has it)
#   suite       the tests that run on devices
# --small takes small shapes: to try the script itself, on any device.
# --program takes the suite as `cargo test --test suite --no-run` built it, instead of building it
# here: all that is measured is in it (docs/backends.md says how it is built small).
# What the tuning of products found goes to OUT/tuning.tar.gz, a file for each kind of card. For
# another machine with this card and the same release of CubeCL, where nothing was tuned yet:
#     mkdir -p ~/.cache/uq4ct/kernels
#     tar --skip-old-files -xzf tuning.tar.gz -C ~/.cache/uq4ct/kernels
# On a processor the suite's allocator counts, and takes longer: benches/compare.sh measures there.
set -uo pipefail
from=$PWD
cd "$(dirname "$0")/.."
device=cuda small= program= out=
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift 2 ;;
    --small) small=1; shift ;;
    --program) program=$(cd "$from" && realpath "$2"); shift 2 ;;
    --out) out=$(cd "$from" && realpath -m "$2"); shift 2 ;;
    *) sed -n '2,/^set /{/^set /d;p}' "$0" | cut -c3-; exit 2 ;;
  esac
done
out="${out:-$(mktemp -d)}"
mkdir -p "$out"
lines="$out/gpu.jsonl"
: > "$lines"
python="${UQ4CT_PYTHON:-python3}"
# A cache of its own, and the driver's too: the first process finds nothing that was compiled
# before, not even by an earlier run with this --out.
export UQ4CT_CACHE="$out/cache" CUDA_CACHE_PATH="$out/cache/driver"
rm -rf "$UQ4CT_CACHE/kernels" "$CUDA_CACHE_PATH"
mkdir -p "$CUDA_CACHE_PATH"
# A program that was built elsewhere finds the fixtures here.
export UQ4CT_SOURCE="$PWD"

if [ -z "$program" ]; then
  case $device in cuda*) features=(--features cuda) ;; wgpu*) features=(--features wgpu,fusion,burn/autotune) ;; *) features=() ;; esac
  program=$(cargo test --workspace "${features[@]}" --test suite --no-run --message-format=json |
    "$python" -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "suite": print(message["executable"])')
  [ -n "$program" ] || exit 1
fi

# Measuring begins, building is not counted. Five seconds are for a stage that has to be killed.
SECONDS=0
whole=475
# What --small tries is the script: software Vulkan takes longer than a card.
[ -z "$small" ] || whole=900

# stage NAME SECONDS COMMAND ..: its lines of JSON get the stage's name; what fails, takes too long
# or has no time left is a line, too.
stage() {
  local name=$1 limit=$2 code=0 left=$((whole - SECONDS))
  shift 2
  [ "$limit" -le "$left" ] || limit=$left
  : > "$out/stage.out"
  : > "$out/stage.err"
  if [ "$limit" -gt 0 ]; then
    timeout --kill-after=5 "$limit" "$@" > "$out/stage.out" 2> "$out/stage.err" || code=$?
  else
    code=late
  fi
  "$python" - "$name" "$code" "$limit" "$out" "$*" >> "$lines" <<'PY'
import json, re, sys
name, code, limit, out, command = sys.argv[1:]
for line in open(out + "/stage.out", errors="replace"):
    # On one core the harness names a test before it runs it, on the same line.
    line = re.sub(r"^test \S+ \.\.\. (?={)", "", line)
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict):
        print(json.dumps({**found, "stage": name}))
    # Not what the harness tells of a test that is still running.
    elif test := re.fullmatch(r"test (\S.*) \.\.\. (ok|FAILED)", line.rstrip()):
        print(json.dumps({"stage": name, "test": test[1], "right": test[2] == "ok"}))
if code != "0":
    over = "over %s s" % limit
    why = {"late": "no time left", "124": over, "137": over}.get(code, "code " + code)
    end = open(out + "/stage.err", errors="replace").read().strip().splitlines()[-3:]
    print(json.dumps({"stage": name, "failed": why, "command": command, "says": end}))
PY
}

# measure WHAT STAGE SECONDS FLAG ..: one of the suite's measurements, by itself.
measure() {
  stage "$2" "$3" env UQ4CT_MEASURE="--device $device ${*:4}" \
    "$program" --ignored --exact --nocapture "measures::$1"
}
step() { measure step "$@"; }
nodes() { measure nodes nodes "$@"; }
torch() { stage torch 40 "$python" benches/pytorch.py --device cuda "$@"; }
has_torch=
if [ -z "$small" ] && "$python" -c 'import peft, torch, transformers, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  has_torch=1
fi

if [ -n "$small" ]; then
  # Products may take TF32 on an NVIDIA card.
  case $device in cuda*) tolerance=5e-3 ;; *) tolerance=1e-5 ;; esac
  tiny=(--small --sequence 48 --dropout 0.05)
  step cold 60 "${tiny[@]}" --batch 1 --steps 1 --warmup 0
  step warm 60 "${tiny[@]}" --batch 1 --steps 1 --warmup 0
  nodes 240 --rows 1,37 --tolerance $tolerance
  for form in lean composed; do
    step step 60 "${tiny[@]}" --batch 1,2 --steps 2 --form $form
    step step 60 "${tiny[@]}" --batch 2 --steps 2 --form $form --method lora
  done
  step step 60 "${tiny[@]}" --batch 2 --steps 2 --flash
  step step 60 "${tiny[@]}" --batch 2 --steps 2 --recompute
  stage suite 120 "$program" invariants::a_fresh_adapter
else
  step cold 75 --layers 30 --batch 16 --sequence 128 --steps 1 --warmup 0
  step warm 30 --layers 30 --batch 16 --sequence 128 --steps 1 --warmup 0
  step step 30 --layers 30 --batch 16 --sequence 128 --steps 10 --warmup 4
  nodes 75 --tolerance 5e-3
  seven=(--shape llama-2-7b --dropout 0.05 --bf16 --steps 3 --sequence 512)
  # One process, so that the weights are made once.
  for method in uq4ct lora; do
    step 7b 70 "${seven[@]}" --layers 32 --batch 2,8,16 --method $method --form lean
  done
  if [ -n "$has_torch" ]; then
    torch --batch 16 --sequence 128 --steps 10 --warmup 4 --tf32
    # Dropout is on the input of the low-rank branches in both. PyTorch keeps its masks for the
    # backward pass, ours are drawn again.
    for rows in 8 2 16; do
      torch "${seven[@]}" --mode fused --batch $rows
    done
  fi
  stage suite 90 "$program" parity:: invariants:: forms::
  step 7b 40 "${seven[@]}" --layers 32 --batch 16 --form lean --flash
  # At 4k and 8k tokens the composed operations would need more than 130 GB: they keep 33 MB a
  # token.
  for method in uq4ct lora; do
    step 7b 40 "${seven[@]}" --layers 32 --batch 2 --method $method --form composed
  done
  step 7b 60 "${seven[@]}" --layers 32 --batch 2,16 --recompute
  [ -z "$has_torch" ] || torch "${seven[@]}" --mode lora --batch 8
fi

"$python" - "$lines" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
nodes = [r for r in rows if r["stage"] == "nodes" and "difference" in r]
print("\n%-20s %6s %-20s %10s" % ("node", "rows", "form", "difference"))
for r in nodes:
    form = r["form"] + (" transposed" if r["transposed"] else "")
    # What is no number has none in JSON.
    off = float("inf") if r["difference"] is None else r["difference"]
    print("%-20s %6d %-20s %10.1e%s" % (r["node"], r["rows"], form, off, "" if r["right"] else "  WRONG"))
for r in rows:
    if "skipped" in r: print("%-20s skipped: %s" % (r["node"], r["skipped"]))
print("\n%-6s %-9s %-14s %6s %9s %9s %11s %9s" % ("stage", "method", "form", "tokens", "s a step", "tokens/s", "first step", "pool MiB"))
for r in rows:
    if "s_per_step" not in r: continue
    tokens = r["batch"] * r["sequence"]
    form = "-" if r["stage"] == "torch" else r["form"] or "best"
    form += "+flash" if r.get("attention") == "flash" else ""
    form += "+recompute" if r.get("recompute") else ""
    print("%-6s %-9s %-14s %6d %9.3f %9.0f %11.1f %9s" % (
        r["stage"], r.get("method", r.get("mode")), form, tokens, r["s_per_step"],
        tokens / r["s_per_step"], r["first_step_s"], r.get("pool_mib") or "-"))
tests = [r for r in rows if r["stage"] == "suite" and "test" in r]
if tests:
    print("\ntests on devices: %d, of them wrong: %d" % (len(tests), sum(not r["right"] for r in tests)))
failed = [r for r in rows if "failed" in r]
for r in failed:
    print("\n%s: %s\n  %s" % (r["stage"], r["failed"], "\n  ".join([r["command"], *r["says"]])))
print("\n" + sys.argv[1])
sys.exit(bool(failed) or any(not r["right"] for r in nodes + tests))
PY
code=$?
# Of what is kept, the tuning alone: a compiled kernel serves the program that compiled it. An
# environment of CubeCL is an SQLite file, whose namespaces begin with what wrote them.
"$python" - "$UQ4CT_CACHE/kernels" "$out" <<'PY'
import glob, os, sqlite3, sys, tarfile
kept, out = sys.argv[1:]
folder = os.path.join(out, "tuning")
os.makedirs(folder, exist_ok=True)
measured, whole = "substr(namespace, 1, instr(namespace, '/') - 1) IN ('autotune', 'throughput')", []
for path in sorted(glob.glob(os.path.join(kept, "*.db"))):
    place = os.path.join(folder, os.path.basename(path))
    if os.path.exists(place): os.remove(place)
    try:
        new = sqlite3.connect(place)
        old = sqlite3.connect(path)
        for name, made in old.execute("SELECT name, sql FROM sqlite_master WHERE name IN ('meta', 'entries')").fetchall():
            new.execute(made)
            rows = old.execute("SELECT * FROM %s%s" % (name, " WHERE " + measured if name == "entries" else "")).fetchall()
            if rows:
                new.executemany("INSERT INTO %s VALUES (%s)" % (name, ", ".join("?" * len(rows[0]))), rows)
        count = new.execute("SELECT count(*) FROM entries").fetchone()[0]
        new.commit()
        new.close()
        old.close()
    except sqlite3.Error as reason:
        print("tuning: %s: %s" % (path, reason))
        continue
    if count:
        whole.append(place)
        print("tuning: %d choices of %s" % (count, os.path.basename(path)))
archive = os.path.join(out, "tuning.tar.gz")
if whole:
    with tarfile.open(archive, "w:gz") as tar:
        for place in whole: tar.add(place, os.path.basename(place))
    print(archive)
else:
    if os.path.exists(archive): os.remove(archive)
    print("tuning: this device keeps none")
PY
exit $code
