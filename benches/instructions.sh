#!/usr/bin/env bash
# Instructions of one training step, counted by valgrind's callgrind: what a shared machine's clock
# cannot show. Compares with benches/instructions.txt and fails above 10 % more;
# `benches/instructions.sh --update` writes it anew. A step is the difference between a run of five
# steps and one of two, so that starting and loading do not count; one thread, AVX2 (valgrind has no
# AVX-512).
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$HOME/.cache/uq4ct-target}"
command -v valgrind >/dev/null || { echo "valgrind is missing: install it to count instructions"; exit 2; }
program=$(cargo bench --quiet --workspace --profile dev --bench step --no-run --message-format=json |
  python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "step":
        print(message["executable"])')
count() {
  RAYON_NUM_THREADS=1 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" --small --sequence 64 --warmup 0 "$@" 2>&1 >/dev/null |
    sed -n 's/.*Collected : //p'
}
positive() { [ "$1" -gt 0 ] 2>/dev/null || { echo "valgrind gave no count"; exit 1; }; }
found=""
for work in "uq4ct" "lora" "uq4ct --evaluate"; do
  # shellcheck disable=SC2086
  few=$(count --method $work --steps 2)
  # shellcheck disable=SC2086
  many=$(count --method $work --steps 5)
  positive "$few"
  positive "$((many - few))"
  found+="${work// --/-} $(((many - few) / 3))"$'\n'
done
if [ "${1:-}" = --update ]; then
  printf '%s' "$found" >benches/instructions.txt
fi
printf '%s' "$found" | python3 -c '
import sys
known = dict(line.split() for line in open("benches/instructions.txt"))
worse = False
for line in sys.stdin:
    name, count = line.split()
    ratio = int(count) / int(known[name])
    worse |= ratio > 1.1
    print(f"{name}: {int(count):,} instructions a step, {ratio:.3f} of what is recorded")
sys.exit("more instructions than recorded: find out why, or benches/instructions.sh --update" if worse else 0)'
