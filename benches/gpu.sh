#!/usr/bin/env bash
# What a GPU does with this project, in one command, without a network and in under eight minutes:
#     benches/gpu.sh [--device cuda] [--small] [--programs DIR] [--out DIR]
# Lines of JSON go to OUT/gpu.jsonl as they come, a table to standard output at the end. Each stage
# has a time limit of its own; one that passes it costs the others nothing.
#   nodes   every operation, lean and composed, beside the processor
#   first   seconds to the first step, kernels not yet compiled and compiled
#   step    training steps: SmolLM2-135M's shape, and LLaMA-2-7B's in bf16 at 1k, 4k and 8k tokens
#   torch   the same in PyTorch, where it is there (UQ4CT_PYTHON names a Python that has it)
#   suite   the tests that run on devices
# --small takes small shapes: to try the script itself, on any device.
# --programs takes `nodes`, `step` and `suite` as `cargo` built them, instead of building them here.
set -uo pipefail
cd "$(dirname "$0")/.."
device=cuda small= programs= out=
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=$2; shift 2 ;;
    --small) small=1; shift ;;
    --programs) programs=$2; shift 2 ;;
    --out) out=$2; shift 2 ;;
    *) sed -n '2,14p' "$0" | cut -c3-; exit 2 ;;
  esac
done
out="${out:-$(mktemp -d)}"
mkdir -p "$out"
lines="$out/gpu.jsonl"
: > "$lines"
python="${UQ4CT_PYTHON:-python3}"
# A cache of its own: the first process finds nothing that was compiled before.
export UQ4CT_CACHE="$out/cache"

if [ -z "$programs" ]; then
  case $device in cuda*) features=(--features cuda) ;; wgpu*) features=(--features wgpu,burn/autotune) ;; *) features=() ;; esac
  programs="$out/programs"
  mkdir -p "$programs"
  cargo test --workspace --profile dev "${features[@]}" --test suite --bench nodes --bench step --no-run --message-format=json |
    "$python" -c '
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    program, name = message.get("executable"), message.get("target", {}).get("name")
    if program and name in ("nodes", "step", "suite"):
        place = os.path.join(sys.argv[1], name)
        if os.path.lexists(place): os.remove(place)
        os.symlink(program, place)' "$programs" || exit 1
fi

# stage NAME SECONDS COMMAND ..: its lines of JSON get the stage's name; what fails or takes too
# long is a line, too.
stage() {
  local name=$1 limit=$2 code=0
  shift 2
  timeout --kill-after=5 "$limit" "$@" > "$out/stage.out" 2> "$out/stage.err" || code=$?
  "$python" - "$name" "$code" "$limit" "$out" "$*" >> "$lines" <<'PY'
import json, sys
name, code, limit, out, command = sys.argv[1:]
for line in open(out + "/stage.out", errors="replace"):
    try:
        print(json.dumps({**json.loads(line), "stage": name}))
    except ValueError:
        if name == "suite" and line.startswith("test "):
            test, _, result = line[5:].strip().rpartition(" ... ")
            print(json.dumps({"stage": name, "test": test, "right": result != "FAILED"}))
if code != "0":
    why = "over %s s" % limit if code in ("124", "137") else "code " + code
    end = open(out + "/stage.err", errors="replace").read().strip().splitlines()[-3:]
    print(json.dumps({"stage": name, "failed": why, "command": command, "says": end}))
PY
}

step() { stage "$1" "$2" "$programs/step" --device "$device" "${@:3}"; }

if [ -n "$small" ]; then
  stage nodes 120 "$programs/nodes" --device "$device" --rows 1,37
  step first 60 --layers 1 --batch 1 --sequence 32 --steps 1 --warmup 0
  step first 60 --layers 1 --batch 1 --sequence 32 --steps 1 --warmup 0
  for form in lean composed; do
    step step 60 --layers 2 --batch 2 --sequence 48 --steps 2 --dropout 0.05 --form $form
    step step 60 --layers 2 --batch 2 --sequence 48 --steps 2 --dropout 0.05 --form $form --method lora
  done
  step step 60 --layers 2 --batch 2 --sequence 48 --steps 2 --dropout 0.05 --flash
else
  stage nodes 60 "$programs/nodes" --device "$device" --tolerance 5e-3
  step first 75 --layers 30 --batch 16 --sequence 128 --steps 1 --warmup 0
  step first 30 --layers 30 --batch 16 --sequence 128 --steps 1 --warmup 0
  step step 30 --layers 30 --batch 16 --sequence 128 --steps 10 --warmup 4
  seven=(--shape llama-2-7b --layers 32 --bf16 --dropout 0.05 --steps 3)
  for rows in 2 8 16; do
    for method in uq4ct lora; do
      step step 40 "${seven[@]}" --batch $rows --sequence 512 --method $method --form lean
    done
  done
  step step 40 "${seven[@]}" --batch 16 --sequence 512 --form lean --flash
  step step 40 "${seven[@]}" --batch 2 --sequence 512 --form composed
  step step 40 "${seven[@]}" --batch 16 --sequence 512 --recompute
fi

if "$python" -c 'import torch, transformers, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  stage torch 40 "$python" benches/pytorch.py --device cuda --batch 16 --sequence 128 --steps 10 --warmup 4 --tf32
  for mode in fused lora; do
    stage torch 40 "$python" benches/pytorch.py --device cuda --shape llama-2-7b --bf16 --mode $mode --batch 8 --sequence 512
  done
fi
# What those tests compile, later processes have.
[ -n "$small" ] || stage suite 120 "$programs/suite" parity:: invariants:: forms::

"$python" - "$lines" <<'PY'
import json, sys
rows = [json.loads(line) for line in open(sys.argv[1])]
nodes = [r for r in rows if r["stage"] == "nodes" and "difference" in r]
print("\n%-20s %6s %9s %10s" % ("node", "rows", "form", "difference"))
for r in nodes:
    print("%-20s %6d %9s %10.1e%s" % (r["node"], r["rows"], r["form"], r["difference"], "" if r["right"] else "  WRONG"))
print("\n%-6s %-9s %-10s %6s %9s %9s %11s %9s" % ("stage", "method", "form", "tokens", "s a step", "tokens/s", "first step", "pool MiB"))
for r in rows:
    if "s_per_step" not in r: continue
    tokens = r.get("batch", 0) * r.get("sequence", 0)
    print("%-6s %-9s %-10s %6d %9.3f %9.0f %11s %9s" % (
        r["stage"], r.get("method", r.get("mode", "-")), (r.get("form") or "best") + ("+flash" if r.get("attention") == "flash" else ""), tokens, r["s_per_step"],
        tokens / r["s_per_step"], "%.1f" % r["first_step_s"] if "first_step_s" in r else "-", r.get("pool_mib") or "-"))
tests = [r for r in rows if r["stage"] == "suite" and "test" in r]
if tests:
    print("\ntests on devices: %d, of them wrong: %d" % (len(tests), sum(not r["right"] for r in tests)))
failed = [r for r in rows if "failed" in r]
for r in failed:
    print("\n%s: %s\n  %s\n  %s" % (r["stage"], r["failed"], r["command"], "\n  ".join(r["says"])))
print("\n" + sys.argv[1])
sys.exit(bool(failed) or any(not r["right"] for r in nodes + tests))
PY
code=$?
# What the tuning of products found, for other machines with this card.
[ -d "$UQ4CT_CACHE/kernels" ] && tar -czf "$out/kernels.tar.gz" -C "$UQ4CT_CACHE" kernels
exit $code
