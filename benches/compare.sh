#!/usr/bin/env bash
# Our step beside PyTorch's, both in turn:
#     benches/compare.sh [--json FILE] [--rounds N] [--datasets a,b]
# Takes about half an hour on 2 cores. Leave the machine alone meanwhile. UQ4CT_PYTHON names a
# Python that has torch, transformers and peft; without it an environment is made under
# ~/.cache/uq4ct/bench (3 GB).
set -euo pipefail
cd "$(dirname "$0")/.."
python="${UQ4CT_PYTHON:-}"
if [ -z "$python" ]; then
  environment="${XDG_CACHE_HOME:-$HOME/.cache}/uq4ct/bench"
  python="$environment/bin/python"
  [ -x "$python" ] || python3 -m venv "$environment"
  "$python" -c "import torch, transformers, peft" 2>/dev/null || "$python" -m pip install --quiet torch transformers peft numpy
fi
cargo build --workspace --bin uq4ct
bench=$(cargo bench --workspace --profile dev --bench step --no-run --message-format=json 2>/dev/null |
  "$python" -c '
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("target", {}).get("name") == "step" and message.get("executable"):
        print(message["executable"])')
program=$(dirname "$bench")/../uq4ct
exec "$python" benches/compare.py --ours "$bench" --uq4ct "$program" "$@"
