"""The PyTorch side of benches/compare.sh: our model, adapter, loss and optimizer, timed.

Modes: fused (stacked experts, dense), loop (the public MixLoRA code's way: an index and a loop over
experts), lora (peft), none. Prints one line of JSON. Random tokens: only their number matters for
time. With --lengths the batches are questions of those lengths in a random order, padded to the
longest of each batch.
"""
import argparse, json, math, os, random, resource, statistics, time

parser = argparse.ArgumentParser()
parser.add_argument("--mode", choices=["fused", "loop", "lora", "none"], default="fused")
parser.add_argument("--evaluate", action="store_true")
parser.add_argument("--batch", type=int, default=4)
parser.add_argument("--sequence", type=int, default=128)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--warmup", type=int, default=1)
parser.add_argument("--experts", type=int, default=8)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--top-k", type=int, default=2)
parser.add_argument("--dropout", type=float, default=0.0, help="on the input of the low-rank branches")
parser.add_argument("--lengths")
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--shape", choices=["smollm2-135m", "llama-2-7b"], default="smollm2-135m")
parser.add_argument("--device", default="cpu")
parser.add_argument("--tf32", action="store_true", help="products of f32 in TF32, on a GPU")
options = parser.parse_args()

THREADS = os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(THREADS)
torch.manual_seed(0)
torch.set_default_device(options.device)
torch.backends.cuda.matmul.allow_tf32 = options.tf32
LETTERS = [330, 389, 340, 422]
imported = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Router(nn.Module):
    """Softmax over the experts, the top k kept; read by all projections of its block."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(options.experts, width) * 0.02)

    def route(self, x):
        flat = x.reshape(-1, x.shape[-1])
        self.probabilities = F.softmax(F.linear(flat.float(), self.weight), -1)
        self.kept, self.chosen = torch.topk(self.probabilities, options.top_k, -1)
        self.weights = self.kept / self.kept.sum(-1, keepdim=True)
        if options.mode == "fused":
            self.dense = torch.zeros_like(self.probabilities).scatter(1, self.chosen, self.weights)
        else:
            mask = F.one_hot(self.chosen, options.experts).permute(2, 1, 0)
            self.places = [torch.where(mask[e]) for e in range(options.experts)]


class Mixture(nn.Module):
    """A frozen projection with low-rank experts; the first of a block asks the router."""

    def __init__(self, base, router, leads):
        super().__init__()
        self.base, self.leads = base, leads
        object.__setattr__(self, "router", router)
        e, r = options.experts, options.rank
        self.scaling = 2.0
        self.drop = nn.Dropout(options.dropout)
        a = [torch.empty(r, base.in_features) for _ in range(e)]
        for matrix in a:
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5))
        if options.mode == "fused":
            self.a = nn.Parameter(torch.stack(a))
            self.b = nn.Parameter(torch.zeros(e, base.out_features, r))
        else:
            self.a = nn.ParameterList(nn.Parameter(matrix) for matrix in a)
            self.b = nn.ParameterList(nn.Parameter(torch.zeros(base.out_features, r)) for _ in range(e))

    def expert(self, e, x):
        return F.linear(F.linear(self.drop(x), self.a[e].to(x.dtype)), self.b[e].to(x.dtype)) * self.scaling

    def forward(self, x):
        if self.leads:
            self.router.route(x)
        y, flat = self.base(x), x.reshape(-1, x.shape[-1])
        if options.mode == "fused":
            e, r = options.experts, options.rank
            hidden = F.linear(self.drop(flat), self.a.view(e * r, -1).to(x.dtype)).view(-1, e, r)
            hidden = hidden * (self.router.dense * self.scaling).unsqueeze(-1).to(x.dtype)
            b = self.b.permute(1, 0, 2).reshape(-1, e * r).to(x.dtype)
            return y + F.linear(hidden.view(-1, e * r), b).view_as(y)
        update = torch.zeros_like(y).view(-1, y.shape[-1])
        for e, (slot, token) in enumerate(self.router.places):
            if token.numel():
                part = self.expert(e, flat.index_select(0, token))
                update.index_add_(0, token, part * self.router.weights[token, slot, None].to(x.dtype))
        return y + update.view_as(y)


class ExpertMlp(nn.Module):
    """The public code's block: each expert a whole one, the frozen gate and up shared."""

    def __init__(self, mlp, router):
        super().__init__()
        self.act = mlp.act_fn
        object.__setattr__(self, "router", router)
        self.gate, self.up, self.down = (Mixture(m, router, False) for m in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))

    def forward(self, x):
        self.router.route(x)
        flat = x.reshape(-1, x.shape[-1])
        gate, up = self.gate.base(flat), self.up.base(flat)
        y = torch.zeros_like(flat)
        for e, (slot, token) in enumerate(self.router.places):
            if token.numel():
                part = flat.index_select(0, token)
                hidden = self.act(gate.index_select(0, token) + self.gate.expert(e, part))
                hidden = hidden * (up.index_select(0, token) + self.up.expert(e, part))
                part = self.down.base(hidden) + self.down.expert(e, hidden)
                y.index_add_(0, token, part * self.router.weights[token, slot, None].to(x.dtype))
        return y.view_as(x)


def build():
    dtype = torch.bfloat16 if options.bf16 else torch.float32
    # Random weights: time does not depend on their values.
    sizes = {
        "smollm2-135m": dict(
            vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
            num_key_value_heads=3, max_position_embeddings=8192, rope_theta=100000.0, tie_word_embeddings=True,
        ),
        "llama-2-7b": dict(tie_word_embeddings=False),
    }
    shape = LlamaConfig(**sizes[options.shape], attn_implementation="sdpa", use_cache=False)
    torch.set_default_dtype(dtype)
    model = LlamaForCausalLM(shape)
    torch.set_default_dtype(torch.float32)
    model.requires_grad_(False)
    routers = []
    if options.mode in ("fused", "loop"):
        for layer in model.model.layers:
            attention, mlp = (Router(model.config.hidden_size) for _ in range(2))
            layer.attention_router, layer.mlp_router = attention, mlp
            block = layer.self_attn
            for i, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj")):
                setattr(block, name, Mixture(getattr(block, name), attention, i == 0))
            if options.mode == "loop":
                layer.mlp = ExpertMlp(layer.mlp, mlp)
            else:
                for i, name in enumerate(("gate_proj", "up_proj", "down_proj")):
                    setattr(layer.mlp, name, Mixture(getattr(layer.mlp, name), mlp, i == 0))
            routers += [attention, mlp]
    elif options.mode == "lora":
        from peft import LoraConfig, get_peft_model

        targets = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
        lora = LoraConfig(
            r=options.rank, lora_alpha=2 * options.rank, lora_dropout=options.dropout,
            target_modules=targets, task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, lora)
    return model, routers


def objective(model, routers, tokens, mask, answers):
    """Cross-entropy of the letter, load balancing (Eq. 15), calibration (Eq. 13)."""
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False, logits_to_keep=1).logits[:, -1].float()
    loss = F.cross_entropy(logits, torch.tensor(LETTERS)[answers])
    if routers:
        flu = torch.stack([r.kept.sum(-1) for r in routers]).view(len(routers), tokens.shape[0], -1).mean((0, 2))
        load = [F.one_hot(r.chosen[:, 0], options.experts).float().mean(0) * r.probabilities.mean(0) for r in routers]
        right = (logits[:, LETTERS].argmax(-1) == answers).float()
        loss = loss + 1e-2 * options.experts * torch.stack(load).sum() / len(routers) + ((right - flu) ** 2).mean()
    return loss


def batches():
    count = options.warmup + options.steps
    if not options.lengths:
        return [[options.sequence] * options.batch] * count
    lengths = json.load(open(options.lengths))
    random.Random(1).shuffle(lengths)
    groups = [lengths[i : i + options.batch] for i in range(0, len(lengths), options.batch)]
    return groups[:count]


def synchronize():
    if options.device != "cpu":
        torch.cuda.synchronize()


def main():
    model, routers = build()
    trained = [p for p in model.parameters() if p.requires_grad]
    trains = bool(trained) and not options.evaluate
    optimizer = torch.optim.AdamW(trained, lr=2e-4) if trains else None
    model.train(trains)
    generator = torch.Generator(options.device).manual_seed(1)
    # Random tokens are of the model's own vocabulary: LLaMA-2's is smaller than SmolLM2's.
    vocabulary = model.config.vocab_size
    seconds, first, useful, computed = [], None, 0, 0
    for step, lengths in enumerate(batches()):
        width = max(lengths)
        tokens = torch.randint(100, vocabulary, (len(lengths), width), generator=generator)
        answers = torch.randint(0, 4, (len(lengths),), generator=generator)
        # Padded on the left, so that the last column is each question's last token.
        mask = torch.stack([(torch.arange(width) >= width - n).long() for n in lengths]) if options.lengths else None
        synchronize()
        start = time.perf_counter()
        with torch.set_grad_enabled(trains):
            loss = objective(model, routers, tokens, mask, answers)
            if trains:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        synchronize()
        took = time.perf_counter() - start
        first = took if first is None else first
        if step >= options.warmup:
            seconds.append(took)
            useful += sum(lengths)
            computed += tokens.numel()
    # What tensors took at most; the pages that PyTorch holds for them are more.
    cuda = options.device.startswith("cuda")
    on_card = {"pool_mib": torch.cuda.max_memory_reserved() >> 20} if cuda else {}
    print(json.dumps({
        "mode": options.mode,
        "phase": "train" if trains else "eval",
        "batch": options.batch,
        "sequence": options.sequence,
        "trainable": sum(p.numel() for p in trained),
        "s_per_step": statistics.median(seconds),
        "first_step_s": first,
        "tokens_per_s": useful / sum(seconds),
        "useful_share": useful / computed,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "imported_mib": imported / 2**20,
        **on_card,
    }))


main()
