"""Checks what uq4ct writes with the programs that must read it, and what it reads of theirs.

Usage: peers.py PROGRAM
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

PROGRAM = str(Path(sys.argv[1]).resolve())
ROOT = Path(tempfile.mkdtemp(prefix="uq4ct-peers-"))
CHOICES = ["x", "yes", "no"]
QUESTIONS = [f"Is {i} more than {40 - i}, or is it not?" for i in range(40)]
TINY = ["--model", "tiny", "--dataset", "boolq", "--plain"]


def uq4ct(*words):
    done = subprocess.run([PROGRAM, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"uq4ct {' '.join(map(str, words))}: {done.stdout}{done.stderr}"
    return done.stdout


def train(run, *words, base="base"):
    # Asked in the way that `theirs` asks, not in the one that serves these questions best.
    asked = ["--set", "data.scoring=letters", "--set", "data.template=moe_peft", "--set", "data.chat=off"]
    uq4ct("train", "--model", base, "--dataset", "questions.jsonl", "--plain", "--run", run, *asked, *words)


def ours(run):
    """The choices' logits of the run's test and held-out questions, by question."""
    found = {}
    for path in (ROOT / run / "evaluation").glob("*/predictions.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            found[row["id"]] = torch.tensor(row["logits"])
    return found


def theirs(model):
    """The same of a transformers model, from texts."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(ROOT / "base" / "tokenizer.json"))
    letters = [tokenizer(f" {letter}", add_special_tokens=False)["input_ids"] for letter in "ABC"]
    assert all(len(ids) == 1 for ids in letters)
    found = {}
    listed = " ".join(f"({letter}) {choice}" for letter, choice in zip("ABC", CHOICES))
    for number, question in enumerate(QUESTIONS):
        text = f"Please choose the correct answer to the question: {question} {listed}\nAnswer:"
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1]
        found[f"q{number}"] = torch.stack([logits[ids[0]] for ids in letters])
    return found


def same(name, run, model):
    model.eval()
    one, other = ours(run), theirs(model)
    assert one, f"{run} has no predictions"
    difference = max(float((one[i] - other[i]).abs().max()) for i in one)
    spread = max(float(logits.std()) for logits in one.values())
    print(f"{name}: {len(one)} questions, logits differ by at most {difference:.1e} (their own spread is {spread:.1e})")
    assert difference < 1e-4 and spread > 1e-3, name


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def base_model():
    """A tiny model in Hugging Face's layout with this project's tiny tokenizer, and questions."""
    uq4ct("train", *TINY, "--method", "lora", "--run", "tiny")
    uq4ct("export", "tiny", "--format", "merged", "--output", "base", "--verify")
    # The run's exported card is of another base.
    (ROOT / "base" / "uq.json").unlink()
    rows = [{"id": f"q{i}", "question": q, "choices": CHOICES, "answer": i % 3} for i, q in enumerate(QUESTIONS)]
    (ROOT / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def peft_reads_ours():
    train("lora", "--method", "lora", "--set", "train.epochs=8", "--set", "train.learning_rate=3e-3")
    uq4ct("export", "lora", "--format", "peft", "--output", "peft")
    same("peft reads our LoRA", "lora", PeftModel.from_pretrained(load(ROOT / "base"), ROOT / "peft"))
    uq4ct("export", "lora", "--format", "merged", "--output", "merged")
    same("transformers reads our merged model", "lora", load(ROOT / "merged"))


def we_read_peft():
    for name, settings in {
        "plain": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
        "rank-stabilised": {"target_modules": "all-linear", "use_rslora": True},
        "DoRA": {"target_modules": "all-linear", "use_dora": True},
        "patterned": {"target_modules": r".*\.(q_proj|down_proj)", "rank_pattern": {"layers.0.self_attn.q_proj": 2},
                      "alpha_pattern": {"down_proj": 6}},
        "PiSSA": {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": "pissa"},
        "one layer's": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    }.items():
        torch.manual_seed(0)
        # B as well as A is random: an adapter that does something.
        model = get_peft_model(load(ROOT / "base"), LoraConfig(**({"r": 4, "lora_alpha": 16, "init_lora_weights": False} | settings)))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        folder = "from-peft-" + re.sub("[^a-z]", "-", name.lower())
        model.save_pretrained(ROOT / folder)
        train(f"asked-{folder}", "--method", "lora", "--adapter", folder, "--set", "train.max_steps=0")
        same(f"we read peft's {name} LoRA", f"asked-{folder}", model)


def peft_reads_our_variants():
    shape = ["--set", "adapter.rank=4", "--set", "adapter.alpha=8", "--set", "train.epochs=4", "--set", "train.learning_rate=3e-3"]
    for name, settings in {
        "rslora": ["adapter.use_rslora=true", "train.lora_plus_ratio=4"],
        "dora": ["adapter.use_dora=true"],
        "pissa": ["adapter.init_lora_weights=pissa", "train.learning_rate=1e-3"],
        "dora-pissa": ["adapter.use_dora=true", "adapter.init_lora_weights=pissa_niter_4", "train.learning_rate=1e-3"],
        "patterns": ["adapter.rank_pattern={q_proj = 2}", "adapter.alpha_pattern={'layers.1.*' = 4.0}",
                     "adapter.target_modules='model\\.layers\\..*(q|v|down)_proj'"],
    }.items():
        train(name, "--method", "lora", *shape, *[word for setting in settings for word in ("--set", setting)])
        uq4ct("export", name, "--format", "peft", "--output", f"peft-{name}", "--verify")
        same(f"peft reads our {name}", name, PeftModel.from_pretrained(load(ROOT / "base"), ROOT / f"peft-{name}"))
        uq4ct("export", name, "--format", "merged", "--output", f"merged-{name}", "--verify")
        same(f"transformers reads our merged {name}", name, load(ROOT / f"merged-{name}"))


def peft_reads_our_language_part():
    """A Gemma 3 that sees, of which we read and adapt the part that writes."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig

    torch.manual_seed(2)
    vocabulary = json.loads((ROOT / "base" / "config.json").read_text())["vocab_size"]
    text = Gemma3TextConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=7, num_attention_heads=4,
                            num_key_value_heads=2, head_dim=8, sliding_window=16, initializer_range=0.1,
                            rope_scaling={"rope_type": "linear", "factor": 8.0})
    sight = SiglipVisionConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=4, patch_size=2)
    settings = Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=1, image_token_index=vocabulary - 1)
    folder = ROOT / "seeing"
    Gemma3ForConditionalGeneration(settings).save_pretrained(folder)
    shutil.copy(ROOT / "base" / "tokenizer.json", folder)
    model = ["--method", "lora", "--set", "adapter.rank=4", "--set", "train.epochs=4", "--set", "train.learning_rate=3e-3"]
    for name, setting in {"seeing-lora": [], "seeing-dora": ["--set", "adapter.use_dora=true"],
                          "seeing-pissa": ["--set", "adapter.init_lora_weights=pissa"]}.items():
        train(name, *model, *setting, base="seeing")
        uq4ct("export", name, "--format", "peft", "--output", f"peft-{name}", "--verify")
        base = load(folder)
        assert type(base) is Gemma3ForConditionalGeneration
        adapted = PeftModel.from_pretrained(base, ROOT / f"peft-{name}")
        assert not any("vision" in n for n, _ in adapted.named_parameters() if "lora" in n)
        same(f"peft reads our {name}", name, adapted)
        uq4ct("export", name, "--format", "merged", "--output", f"merged-{name}", "--verify")
        same(f"transformers reads our merged {name}", name, load(ROOT / f"merged-{name}"))
    # The second adapts the vision part, too, which changes no answer to a text.
    for name, targets in {"language-part": r".*language_model.*_proj", "whole": "all-linear"}.items():
        settings = LoraConfig(r=4, lora_alpha=16, init_lora_weights=False, target_modules=targets)
        theirs = get_peft_model(load(folder), settings)
        theirs.save_pretrained(ROOT / f"from-peft-{name}")
        train(f"asked-{name}", *model, "--adapter", f"from-peft-{name}", "--set", "train.max_steps=0", base="seeing")
        same(f"we read peft's LoRA of a model that sees ({name})", f"asked-{name}", theirs)


def mixlora_reads_ours():
    from mixlora import MixLoraModelForCausalLM

    train("ffn", "--method", "uq4ct", "--set", "adapter.placement=ffn", "--set", "train.epochs=8", "--set", "train.learning_rate=3e-3")
    uq4ct("export", "ffn", "--format", "mixlora", "--output", "mixlora")
    model, settings = MixLoraModelForCausalLM.from_pretrained(str(ROOT / "mixlora"), torch_dtype=torch.float32)
    assert settings.num_experts_ == 8
    same("mixlora reads our mixture", "ffn", model)


def we_read_mixlora():
    """Random weights in the package's layout, saved by torch itself."""
    from mixlora import MixLoraModelForCausalLM

    torch.manual_seed(1)
    folder = ROOT / "from-mixlora"
    folder.mkdir()
    model = load(ROOT / "base")
    settings = {
        "bias": "none", "peft_type": "MIXLORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(ROOT / "base"),
        "r": 4, "lora_alpha": 8, "lora_dropout": 1e-12, "target_modules": ["q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "routing_strategy": "mixlora", "num_experts": 4, "top_k": 2, "act_fn": "silu",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    weights = {}
    for number, layer in enumerate(model.model.layers):
        at = f"mixlora.layers.{number}"
        weights[f"{at}.mlp.moe_gate.weight"] = torch.randn(4, model.config.hidden_size)
        for name in settings["target_modules"]:
            block = "self_attn" if hasattr(layer.self_attn, name) else "mlp"
            base = getattr(getattr(layer, block), name)
            places = [f"{at}.{block}.{name}"] if block == "self_attn" else [f"{at}.mlp.{name}.experts.{e}" for e in range(4)]
            for place in places:
                weights[f"{place}.lora_A.weight"] = torch.randn(4, base.in_features) * 0.2
                weights[f"{place}.lora_B.weight"] = torch.randn(base.out_features, 4) * 0.2
    torch.save(weights, folder / "adapter_model.bin")
    train("asked-mixlora", "--method", "uq4ct", "--adapter", "from-mixlora", "--set", "train.max_steps=0")
    model, _ = MixLoraModelForCausalLM.from_pretrained(str(folder), torch_dtype=torch.float32)
    same("we read mixlora's mixture", "asked-mixlora", model)


def tensorboard_reads_ours():
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(ROOT / "lora"))
    events.Reload()
    tags = events.Tags()["scalars"]
    lines = [json.loads(line) for line in (ROOT / "lora" / "metrics.jsonl").read_text().splitlines()]
    for split in ("train", "held_out"):
        logged = [(line["step"], line["values"]["loss"]) for line in lines if line["split"] == split]
        read = [(event.step, event.value) for event in events.Scalars(f"{split}/loss")]
        assert len(read) == len(logged), f"{split}: {len(read)} of {len(logged)}"
        assert all(a[0] == b[0] and abs(a[1] - b[1]) < 1e-6 for a, b in zip(read, logged)), split
    print(f"TensorBoard reads our events: {len(tags)} curves")
    # The plugin's own gathering over all runs below a directory: columns, and a row a run.
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    runs = plugin_event_multiplexer.EventMultiplexer()
    for run in ("lora", "ffn"):
        runs.AddRun(str(ROOT / run), run)
    runs.Reload()
    provider = data_provider.MultiplexerDataProvider(runs, str(ROOT))
    backend = backend_context.Context(base_plugin.TBContext(data_provider=provider, multiplexer=runs))
    experiment = backend.experiment_from_metadata(
        RequestContext(), "", True, backend.hparams_metadata(RequestContext(), ""), None)
    columns = [column.name for column in experiment.hparam_infos]
    assert {"train.learning_rate", "method.name", "adapter.placement"} <= set(columns), columns
    assert "test/accuracy" in [metric.name.tag for metric in experiment.metric_infos]
    request = api_pb2.ListSessionGroupsRequest(slice_size=10, allowed_statuses=[1], include_metrics=True, col_params=[
        api_pb2.ColParams(metric=metric.name) for metric in experiment.metric_infos])
    groups = list_session_groups.Handler(RequestContext(), backend, "", request).run().session_groups
    rates = {group.name: group.hparams["train.learning_rate"].number_value for group in groups}
    assert rates == {"lora": 3e-3, "ffn": 3e-3}, rates
    for group in groups:
        name = next(iter((ROOT / group.name / "evaluation").glob("[!h]*/metrics.json")))
        figures = json.loads(name.read_text())["tuned"]
        shown = {value.name.tag: value.value for value in group.metric_values}
        assert abs(shown["test/accuracy"] - figures["accuracy"]["value"]) < 1e-6, (shown, figures)
    print(f"TensorBoard's hparams show our runs: {len(columns)} settings, {len(experiment.metric_infos)} metrics")


def openais_client_asks():
    import openai

    server = subprocess.Popen([PROGRAM, "serve", "ffn", "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().split()[-1]
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        (model,) = client.models.list().data
        question = [{"role": "user", "content": "Is 7 odd?\nA) true\nB) false"}]
        said = client.chat.completions.create(model=model.id, messages=question, logprobs=True, top_logprobs=2)
        (choice,) = said.choices
        assert choice.message.content in "AB" and choice.finish_reason == "stop", said
        (token,) = choice.logprobs.content
        total = sum(math.exp(one.logprob) for one in token.top_logprobs)
        assert token.token == choice.message.content and abs(total - 1) < 1e-5, token
        known = said.model_extra["uq4ct"]
        assert 0 < known["confidence"] < 1 and known["label"] and known["set"], known
        extra = {"uq4ct": {"choices": ["true", "false"]}}
        same = client.chat.completions.create(
            model=model.id, messages=[{"role": "user", "content": "Is 7 odd?"}], extra_body=extra)
        assert same.model_extra["uq4ct"]["probabilities"] == known["probabilities"], same
        for error, request in [
            (openai.BadRequestError, {"model": model.id, "messages": question, "stream": True}),
            (openai.NotFoundError, {"model": "gpt-4o", "messages": question}),
        ]:
            try:
                client.chat.completions.create(**request)
                raise SystemExit(f"{request} was not refused")
            except error as refused:
                assert refused.body["message"] and refused.body["code"], refused.body
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(timeout=30) == 0
    print(f"OpenAI's client {openai.__version__} asks: {choice.message.content}, confidence {known['confidence']:.2f}")


def chromium_shows_the_page():
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        print("skipped: no Chromium")
        return

    def shown(run, query):
        server = subprocess.Popen([PROGRAM, "serve", run, "--port", "0", "--coverage", "0.5"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().split()[-1]
            command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={ROOT}/chromium",
                       "--virtual-time-budget=20000", "--dump-dom", f"{address}/?{query}"]
            text = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0
        assert re.search(r'id="problem"[^>]*></p>', text), "the page shows a problem"
        # Chromium writes small numbers with an exponent.
        return text, re.findall(r'style="width: ([0-9.e+-]+)%', text)

    question = "question=Is%20%3Cb%3E7%3C/b%3E%20odd%3F&choice=x&choice=yes%20%26%20no&choice=no"
    text, bars = shown("ffn", f"{question}&routing=1")
    said = re.search(r'class="says[^>]*>([^<]*)<', text).group(1)
    assert re.search(r"[ABC]: (x|yes &amp; no|no)", said), said
    assert len(bars) == 4 and abs(sum(map(float, bars[:3])) - 100) < 0.5, bars
    cells = text.count('class="cell"')
    assert cells == 2 * 8, f"{cells} cells for 2 layers of one router of 8 experts"
    print(f"Chromium shows the page: {said!r}, {len(bars)} bars, {cells} cells of routing")
    uq4ct("train", "--model", "tiny", "--plain", "--dataset", "triviaqa", "--set", "train.max_steps=2", "--run", "open")
    text, bars = shown("open", "question=How%20is%20dog%20spelled%20backwards%3F")
    assert re.search(r'id="chosen"[^>]* hidden', text), "an open-ended run asks for choices"
    assert len(bars) == 2, bars
    print("Chromium shows the page of a run that writes its answers")


base_model()
peft_reads_ours()
we_read_peft()
peft_reads_our_variants()
peft_reads_our_language_part()
mixlora_reads_ours()
we_read_mixlora()
tensorboard_reads_ours()
openais_client_asks()
chromium_shows_the_page()
shutil.rmtree(ROOT, ignore_errors=True)
