//! Two commands for each verb, shown by `--help`. A test parses every one of them.

/// The examples of a verb: what it is for, and the command.
pub(super) fn of(verb: &str) -> &'static [(&'static str, &'static str)] {
    match verb {
        "init" => &[
            ("A file to start from", "uq4ct init"),
            ("What it would hold", "uq4ct init -"),
        ],
        "doctor" => &[
            ("What is missing on this machine", "uq4ct doctor"),
            (
                "Without the network, for a program",
                "uq4ct doctor --offline --json",
            ),
        ],
        "models" => &[
            ("Names, sizes, licences", "uq4ct models"),
            ("For a program", "uq4ct models --json"),
        ],
        "download" => &[
            (
                "Everything that the main job needs",
                "uq4ct download --model qwen2.5-coder-0.5b --dataset boolq",
            ),
            ("A model alone", "uq4ct download --model smollm2-135m"),
        ],
        "warm" => &[
            (
                "Before the main job on a card",
                "uq4ct warm --model qwen2.5-coder-0.5b --method uq4ct --device cuda",
            ),
            (
                "For longer questions, with choices scored by their text",
                "uq4ct warm --model smollm2-135m --longest 1024 --set data.scoring=cloze --device cuda",
            ),
        ],
        "data" | "check" => &[
            ("Look at a file", "uq4ct data check questions.csv"),
            (
                "And that it shares no question with another",
                "uq4ct data check train.jsonl --against test.jsonl",
            ),
        ],
        "train" => &[
            ("The main job", "uq4ct train --dataset boolq"),
            (
                "Your own questions, another method, two epochs",
                "uq4ct train --dataset questions.jsonl --method calibrated --epochs 2",
            ),
            (
                "Three learning rates, three seeds each, as a table",
                "uq4ct train --dataset questions.jsonl --sweep train.learning_rate=1e-4,2e-4,4e-4 --seeds 3",
            ),
        ],
        "evaluate" => &[
            (
                "On other datasets",
                "uq4ct evaluate runs/boolq-uq4ct-tiny-s42 --on arc-easy,openbookqa",
            ),
            (
                "By another method",
                "uq4ct evaluate runs/boolq-lora-tiny-s42 --on boolq --method mc_dropout",
            ),
        ],
        "predict" => &[
            (
                "One question",
                "uq4ct predict RUN --question which? --choice this --choice that",
            ),
            (
                "A file, with at most a tenth of the given answers wrong",
                "uq4ct predict RUN --input new.jsonl --output answers.jsonl --target-risk 0.1",
            ),
        ],
        "serve" => &[
            ("On this machine, with a page to try it", "uq4ct serve RUN"),
            (
                "For others, with a token",
                "uq4ct serve RUN --host 0.0.0.0 --token-file token.txt",
            ),
        ],
        "export" => &[
            (
                "For peft, and see that it gives the same logits",
                "uq4ct export RUN --format peft --output adapter --verify",
            ),
            (
                "A whole model",
                "uq4ct export RUN --format merged --output model",
            ),
        ],
        "runs" => &[
            ("All runs below runs/", "uq4ct runs"),
            ("For a program", "uq4ct runs elsewhere --json"),
        ],
        "compare" => &[
            ("Two runs, with paired tests", "uq4ct compare runs/a runs/b"),
            (
                "On another dataset, written elsewhere",
                "uq4ct compare runs/a runs/b --on arc-easy --out comparison",
            ),
        ],
        "reproduce" => &[
            (
                "How long a small table takes",
                "uq4ct reproduce table1 --seeds 1 --limit 200 --train-limit 600 --plan",
            ),
            (
                "The recorded table, at once",
                "uq4ct reproduce table1 --from results",
            ),
        ],
        "completions" => &[
            ("For bash", "uq4ct completions bash"),
            ("For fish", "uq4ct completions fish"),
        ],
        "man" => &[
            ("Every page, in a directory", "uq4ct man man1"),
            ("The first page", "uq4ct man"),
        ],
        _ => &[],
    }
}

/// The examples as they stand below a verb's help.
pub(super) fn text(verb: &str) -> Option<String> {
    let examples = of(verb);
    let lines = examples
        .iter()
        .map(|(what, command)| format!("\n  {what}:\n    {command}"));
    (!examples.is_empty()).then(|| format!("Examples:{}", lines.collect::<String>()))
}
