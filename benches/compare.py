"""Runs both sides in turn and prints the tables of docs/performance.md.

benches/compare.sh calls it.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time

parser = argparse.ArgumentParser()
parser.add_argument("--json", help="where the ratios are written")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--datasets", default="boolq,openbookqa,arc-easy,arc-challenge")
parser.add_argument("--ours", required=True)
parser.add_argument("--uq4ct", required=True)
options = parser.parse_args()
here = os.path.dirname(os.path.abspath(__file__))


def run(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stderr[-2000:]}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def ours(*arguments):
    return run([options.ours, *map(str, arguments)])


def pytorch(*arguments):
    return run([sys.executable, os.path.join(here, "pytorch.py"), *map(str, arguments)])


SYNTHETIC = {
    "uq4ct": lambda: ours("--method", "uq4ct"),
    "PyTorch fused": lambda: pytorch("--mode", "fused"),
    "PyTorch loop": lambda: pytorch("--mode", "loop", "--steps", 3),
    "PyTorch LoRA 80": lambda: pytorch("--mode", "lora", "--rank", 80),
    "LoRA 80": lambda: ours("--method", "lora", "--rank", 80),
    "64 experts": lambda: ours("--method", "uq4ct", "--experts", 64, "--warmup", 2, "--steps", 3),
    "uq4ct evaluation": lambda: ours("--method", "uq4ct", "--evaluate"),
    "PyTorch evaluation": lambda: pytorch("--mode", "fused", "--evaluate"),
    "recomputed": lambda: ours("--method", "uq4ct", "--recompute"),
    "16 questions": lambda: ours("--method", "uq4ct", "--batch", 16, "--steps", 3),
    "7 layers": lambda: ours("--method", "uq4ct", "--layers", 7),
    "28 layers": lambda: ours("--method", "uq4ct", "--layers", 28),
}


def start_seconds():
    """From the command to its first optimizer step, everything cached."""
    with tempfile.TemporaryDirectory() as directory:
        command = [options.uq4ct, "train", "--dataset", "openbookqa", "--plain", "--run", directory + "/run"]
        for setting in ("train.max_steps=1", "data.train_limit=4", "data.held_out_limit=1", "data.test_limit=1"):
            command += ["--set", setting]
        begin = time.time()
        subprocess.run(command, capture_output=True, check=True)
        return os.path.getmtime(directory + "/run/metrics.jsonl") - begin


def main():
    found = {name: [] for name in SYNTHETIC}
    rates = []
    for number in range(options.rounds):
        for name, measure in SYNTHETIC.items():
            found[name].append(measure())
            print(f"round {number + 1} of {options.rounds}: {name}: {found[name][-1]['s_per_step']:.3f} s", file=sys.stderr)
        rates.append(ours("--products")["gflops"])
    seconds = {name: statistics.median(r["s_per_step"] for r in runs) for name, runs in found.items()}

    def memory(name):
        return statistics.median(r["peak_rss_mib"] - r.get("imported_mib", 0) for r in found[name])

    datasets, shares = {}, []
    with tempfile.TemporaryDirectory() as directory:
        for dataset in options.datasets.split(","):
            for phase, flags in (("training", []), ("evaluation", ["--evaluate"])):
                lengths = f"{directory}/{dataset}-{phase}.json"
                steps = ["--steps", 12, "--warmup", 2]
                mine = ours("--method", "uq4ct", "--dataset", dataset, "--lengths", lengths, *steps, *flags)
                # At their best size: four questions of training, more to evaluate.
                size = ["--batch", 16 if flags else 4]
                theirs = pytorch("--mode", "fused", "--lengths", lengths, *steps, *size, *flags)
                datasets[f"{dataset} {phase}"] = (mine, theirs)
                if phase == "training":
                    shares.append(mine["useful_share"])
                print(f"{dataset} {phase}: {mine['tokens_per_s']:.0f} and {theirs['tokens_per_s']:.0f} tokens/s", file=sys.stderr)

    def dataset_ratio(phase):
        ratios = [a["tokens_per_s"] / b["tokens_per_s"] for name, (a, b) in datasets.items() if name.endswith(phase)]
        return statistics.median(ratios)

    gflops = statistics.median(r["gflops"] for r in found["uq4ct"])
    ratios = {
        "train_step_vs_pytorch_fused": seconds["PyTorch fused"] / seconds["uq4ct"],
        "train_step_vs_public_loop": seconds["PyTorch loop"] / seconds["uq4ct"],
        "epoch_vs_pytorch": dataset_ratio("training"),
        "eval_vs_pytorch": dataset_ratio("evaluation"),
        "gemm_floor_share": gflops / statistics.median(rates),
        "step_vs_lora80": seconds["uq4ct"] / seconds["LoRA 80"],
        "experts_64_vs_8": seconds["64 experts"] / seconds["uq4ct"],
        "peak_memory_vs_pytorch": memory("uq4ct") / memory("PyTorch fused"),
        "useful_token_share": min(shares),
        "start_seconds": start_seconds(),
        "step_vs_tokens_4x": seconds["16 questions"] / seconds["uq4ct"] / 4,
        "step_vs_layers_4x": seconds["28 layers"] / seconds["7 layers"] / 4,
        "recompute_time": seconds["recomputed"] / seconds["uq4ct"],
        "recompute_memory": memory("recomputed") / memory("uq4ct"),
    }
    print("\n| work | median seconds a step | peak memory, MiB |\n|---|---|---|")
    for name in SYNTHETIC:
        print(f"| {name} | {seconds[name]:.3f} | {memory(name):.0f} |")
    print(f"\nLarge products: {statistics.median(rates):.0f} GFLOP/s; the uq4ct step: {gflops:.0f} GFLOP/s of what it needs\n")
    print("| real questions | useful tokens/s | PyTorch | ratio | useful share | PyTorch |\n|---|---|---|---|---|---|")
    for name, (a, b) in datasets.items():
        print(
            f"| {name} | {a['tokens_per_s']:.0f} | {b['tokens_per_s']:.0f} | {a['tokens_per_s'] / b['tokens_per_s']:.2f}"
            f" | {a['useful_share']:.3f} | {b['useful_share']:.3f} |"
        )
    print("\n| ratio | value |\n|---|---|")
    for name, value in ratios.items():
        print(f"| {name} | {value:.3f} |")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({name: round(value, 4) for name, value in ratios.items()}, file, indent=2)
            file.write("\n")


main()
