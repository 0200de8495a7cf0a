//! Answers in the model's own words: the decoding, and the way of a user.

use std::collections::HashSet;

use burn::data::dataloader::batcher::Batcher;
use burn::prelude::*;
use burn::tensor::FloatDType;
use burn::tensor::activation::softmax;
use data::encoded::{EncodedQuestion, OpenEnded};
use data::{QuestionBatcher, Tokenizer};
use model::load::Weights;
use model::load::tiny::{self, RandomWeights};
use model::{AdapterConfig, DropoutSeed, Llama, ModelError};
use serde_json::Value;
use train::forward;
use train::functional_uncertainty::{FluTokens, functional_uncertainty};
use train::method::Sample;
use train::writing::{WrittenAnswer, write};

use crate::support::programs::{fails, json_lines, stdout, succeeds, uq4ct};
use crate::support::{assert_close, devices, floats, mixture, questions};

const LONGEST: usize = 12;

fn prompts(n: usize) -> Vec<EncodedQuestion> {
    let open = |question: EncodedQuestion| EncodedQuestion {
        open: Some(OpenEnded {
            accepted: vec![],
            answer_tokens: LONGEST,
            cut: false,
        }),
        ..question
    };
    questions(n)
        .iter()
        .map(EncodedQuestion::prompt_only)
        .map(open)
        .collect()
}

fn written(models: &[Llama], rows: &[EncodedQuestion], device: &Device) -> Vec<WrittenAnswer> {
    let samples: Vec<Sample> = models.iter().map(|m| (m, DropoutSeed::OFF)).collect();
    let batch = QuestionBatcher::default().batch(rows.to_vec(), device);
    write(
        samples,
        &batch,
        FluTokens::Mean,
        &Tokenizer::tiny(),
        LONGEST,
    )
    .unwrap()
}

/// The tiny model's weights with one loud token: it is the best or the worst almost everywhere, so
/// that answers end, each at its own time.
struct Loud(RandomWeights, usize);

impl Weights for Loud {
    fn tensor(&mut self, name: &str) -> Result<TensorData, ModelError> {
        let data = self.0.tensor(name)?;
        if name != "model.embed_tokens.weight" {
            return Ok(data);
        }
        let shape = data.shape().clone();
        let d = shape[1];
        let mut values: Vec<f32> = data.try_into_vec_as().unwrap();
        values[self.1 * d..(self.1 + 1) * d]
            .iter_mut()
            .for_each(|v| *v *= 2.0);
        Ok(TensorData::new(values, shape))
    }
}

fn models(device: &Device) -> Vec<Llama> {
    let adapter = AdapterConfig::MixLora(mixture());
    let tokenizer = Tokenizer::tiny();
    let config = tiny::config(tokenizer.vocabulary());
    let end = tokenizer.encode("\n").unwrap()[0] as usize;
    let mut weights = Loud(RandomWeights::new(config.clone(), 1), end);
    let base = Llama::load(&config, &mut weights, 128, FloatDType::F32, device).unwrap();
    let fresh = base.attach(&adapter, 3).unwrap();
    let mut one = fresh.adapter_tensors();
    // Every B away from zero.
    for data in one.values_mut() {
        let shape = data.shape();
        let values: Vec<f32> = data.clone().try_into_vec_as().unwrap();
        let moved = values.iter().enumerate();
        let moved = moved.map(|(i, v)| v + 0.2 * (i as f32 * 0.7).sin());
        *data = TensorData::new(moved.collect::<Vec<f32>>(), shape);
    }
    let one = fresh.with_adapter_tensors(&one).unwrap();
    // Another adapter on the same base.
    let mut other = one.adapter_tensors();
    for data in other.values_mut() {
        let shape = data.shape();
        let values: Vec<f32> = data.clone().try_into_vec_as().unwrap();
        *data = TensorData::new(values.iter().rev().copied().collect(), shape);
    }
    vec![one.clone(), one.with_adapter_tensors(&other).unwrap()]
}

/// The same from whole passes over prompt and answer so far, one question at a time.
fn written_slowly(models: &[Llama], row: &EncodedQuestion, device: &Device) -> (String, Vec<f32>) {
    let tokenizer = Tokenizer::tiny();
    let (mut longer, mut tokens, mut logs) = (row.clone(), Vec::new(), Vec::new());
    while logs.len() < LONGEST {
        let batch = QuestionBatcher::default().batch(vec![longer.clone()], device);
        let input = forward::input(&batch, DropoutSeed::OFF);
        let sum = models
            .iter()
            .map(|model| softmax(model.forward(&input).logits, 1))
            .reduce(|sum, other| sum + other)
            .unwrap();
        let probabilities = floats(sum / models.len() as f64);
        let best = (0..probabilities.len())
            .max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b]))
            .unwrap();
        logs.push(probabilities[best].ln());
        tokens.push(best as u32);
        longer.prompt.push(best as u32);
        if tokenizer.written(&tokens).unwrap().1 {
            break;
        }
    }
    (tokenizer.written(&tokens).unwrap().0, logs)
}

#[test]
fn the_cache_changes_nothing_nor_do_the_questions_beside_it() {
    for (name, device, tolerance) in devices() {
        let models = models(&device);
        for models in [&models[..1], &models[..]] {
            let rows = prompts(24);
            let together = written(models, &rows, &device);
            let lengths: Vec<usize> = together
                .iter()
                .map(|(answer, _)| answer.log_probabilities.len())
                .collect();
            let different: HashSet<&usize> = lengths.iter().collect();
            let early = lengths.iter().filter(|n| **n < LONGEST).count();
            // So many that those left are gathered at least once.
            assert!(
                different.len() > 2 && early * 2 > rows.len() && early < rows.len(),
                "{lengths:?}"
            );
            for (row, (answer, flu)) in rows.iter().zip(&together) {
                let what = format!("{} by {} models on {name}", row.id, models.len());
                let logs: Vec<f32> = answer
                    .log_probabilities
                    .iter()
                    .map(|log| *log as f32)
                    .collect();
                let (text, slowly) = written_slowly(models, row, &device);
                assert_eq!(answer.text, text, "{what}");
                assert_close(&what, &logs, &slowly, tolerance);
                let alone = &written(models, std::slice::from_ref(row), &device)[0];
                assert_eq!(alone.0.text, text, "{what}");
                let found = [flu.unwrap() as f32];
                assert_close(&what, &found, &[alone.1.unwrap() as f32], tolerance);
            }
        }
    }
}

#[test]
fn flu_is_that_of_the_prompt() {
    let device = Device::flex();
    let models = models(&device);
    let rows = prompts(3);
    let batch = QuestionBatcher::default().batch(rows.clone(), &device);
    let output = models[0].forward(&forward::input(&batch, DropoutSeed::OFF));
    let expected = functional_uncertainty(&output.routing, &batch.means.prompt);
    let found: Vec<f32> = written(&models[..1], &rows, &device)
        .iter()
        .map(|(_, flu)| flu.unwrap() as f32)
        .collect();
    assert_close("flu", &found, &floats(expected), 1e-5);
}

const OWN: [&str; 9] = [
    "train",
    "--model",
    "tiny",
    "--plain",
    "--device",
    "cpu",
    "--set",
    "train.max_steps=2",
    "--dataset",
];

#[test]
fn a_run_on_open_ended_questions_writes_reports_and_predicts() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for method in ["uq4ct", "spuq", "mc_dropout", "tfb"] {
        let flags = ["triviaqa", "--method", method, "--run", method];
        succeeds(root, &[&OWN[..], &flags[..]].concat());
        let path = root
            .join(method)
            .join("evaluation/triviaqa/predictions.jsonl");
        let rows = json_lines(&std::fs::read_to_string(path).unwrap());
        assert_eq!(rows.len(), 20);
        for row in rows {
            let logs = row["written"]["log_probabilities"].as_array().unwrap();
            assert!((1..=16).contains(&logs.len()));
            assert!(row["written"]["text"].is_string());
            let sum: f64 = logs.iter().map(|log| log.as_f64().unwrap()).sum();
            let p = row["probabilities"][0].as_f64().unwrap();
            if method != "spuq" {
                assert!((p - (sum / logs.len() as f64).exp()).abs() < 1e-5);
            }
        }
    }
    let report = std::fs::read_to_string(root.join("uq4ct/report.md")).unwrap();
    assert!(
        report.contains("| product of the tokens' probabilities") && report.contains("| FLU |"),
        "{report}"
    );
    assert!(!report.contains("Conformal"), "{report}");
    let question = [
        "predict",
        "uq4ct",
        "--question",
        "How is dog spelled backwards?",
    ];
    let one = stdout(root, &[&question[..], &["--json"]].concat());
    let answer: Value = serde_json::from_str(&one).unwrap();
    assert!(answer["text"].is_string() && answer.get("answer").is_none());
    assert_eq!(answer["probability"], answer["probabilities"][0]);
    let printed = stdout(root, &question);
    assert!(
        printed.contains("% sure [") && printed.contains("the model states "),
        "{printed}"
    );
    let chosen = [&question[..], &["--choice", "god"]].concat();
    fails(root, &chosen, &["this run writes its answers"]);
    std::fs::write(
        root.join("in.jsonl"),
        "{\"question\": \"Is this known?\", \"answer\": \"no\"}\n{\"question\": \"And this?\"}\n",
    )
    .unwrap();
    let answers = json_lines(&stdout(root, &["predict", "uq4ct", "--input", "in.jsonl"]));
    assert_eq!(answers[0]["correct"], false);
    assert!(answers[1].get("correct").is_none());
}

#[test]
fn settings_that_need_choices_are_refused_for_open_ended_questions() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for (flags, reason) in [
        (&["--method", "laplace"][..], "laplace"),
        (
            &["--set", "objective.cross_entropy=choices"],
            "without choices",
        ),
        (
            &[
                "--method",
                "lora",
                "--set",
                "evaluation.answer_confidence=flu",
            ],
            "no routers",
        ),
    ] {
        fails(root, &[&OWN[..], &["triviaqa"], flags].concat(), &[reason]);
    }
}

#[test]
fn own_open_ended_questions_are_checked_and_trained_on() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let rows: String = (0..30)
        .map(|i| format!("{{\"question\": \"What is {i} plus 1?\", \"answer\": {}, \"aliases\": [\"number {}\"]}}\n", i + 1, i + 1))
        .collect();
    std::fs::write(root.join("own.jsonl"), &rows).unwrap();
    let open = ["--set", "data.custom.written=true"];
    let check = ["data", "check", "own.jsonl", "--model", "tiny"];
    let said = stdout(root, &[&check[..], &open[..]].concat());
    assert!(
        said.contains("open-ended; accepted answers a row: 2: 30"),
        "{said}"
    );
    let run = ["own.jsonl", "--run", "own"];
    succeeds(root, &[&OWN[..], &run[..], &open[..]].concat());
    assert!(
        root.join("own/evaluation/custom/predictions.jsonl")
            .is_file()
    );
    std::fs::write(
        root.join("bad.jsonl"),
        format!("{rows}{{\"question\": \"?\", \"answer\": \"x\", \"aliases\": 3}}\n"),
    )
    .unwrap();
    let bad = ["data", "check", "bad.jsonl", "--model", "none"];
    let output = uq4ct(root, &[&bad[..], &open[..]].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        !output.status.success() && said.contains("row 31: aliases: expected a list"),
        "{said}"
    );
}

#[test]
fn runs_are_asked_questions_of_the_other_kind() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    // What is about choices, or about answers, falls away where it says nothing.
    let chosen = [
        "boolq",
        "--run",
        "chosen",
        "--set",
        "objective.cross_entropy=choices",
    ];
    succeeds(root, &[&OWN[..], &chosen[..]].concat());
    let product = ["--set", "evaluation.answer_confidence=product"];
    let both = ["evaluate", "chosen", "--on", "triviaqa,arc-easy"];
    stdout(root, &[&both[..], &product[..]].concat());
    let rows = std::fs::read_to_string(root.join("chosen/evaluation/triviaqa/predictions.jsonl"));
    let row = &json_lines(&rows.unwrap())[0];
    let logs = row["written"]["log_probabilities"].as_array().unwrap();
    let sum: f64 = logs.iter().map(|log| log.as_f64().unwrap()).sum();
    assert!((row["probabilities"][0].as_f64().unwrap() - sum.exp()).abs() < 1e-6);
    let asked = std::fs::read_to_string(root.join("chosen/evaluation/triviaqa/config.toml"));
    assert!(asked.unwrap().contains("answer_confidence = \"product\""));
    let alone = ["evaluate", "chosen", "--on", "arc-easy"];
    let refused = [&alone[..], &product[..]].concat();
    fails(
        root,
        &refused,
        &["evaluation.answer_confidence", "these have choices"],
    );
    let own = [
        "evaluate",
        "chosen",
        "--on",
        "arc-easy",
        "--set",
        "train.epochs=2",
    ];
    fails(root, &own, &["the training is done"]);
    let open = ["triviaqa", "--run", "open", "--set", "data.answer_tokens=5"];
    succeeds(root, &[&OWN[..], &open[..]].concat());
    stdout(root, &["evaluate", "open", "--on", "boolq"]);
    // With another confidence than the training's, held-out answers have that one, too.
    let rows: String = (0..6)
        .map(|i| {
            format!(
                "{}\n",
                serde_json::json!({"question": format!("What is {i}?"), "answer": "x"})
            )
        })
        .collect();
    std::fs::write(root.join("mine.jsonl"), rows).unwrap();
    let mine = ["evaluate", "open", "--on", "mine.jsonl"];
    stdout(root, &[&mine[..], &product[..]].concat());
    let read =
        |file: &str| std::fs::read_to_string(root.join("open/evaluation").join(file)).unwrap();
    let held_out = json_lines(&read("held-out/predictions.jsonl"));
    let losses = held_out.iter().map(|row| {
        let logs = row["written"]["log_probabilities"].as_array().unwrap();
        let p = logs
            .iter()
            .map(|log| log.as_f64().unwrap())
            .sum::<f64>()
            .exp();
        match row["label"].as_u64() {
            Some(0) => -p.ln(),
            _ => -(1.0 - p).ln(),
        }
    });
    let mean = losses.sum::<f64>() / held_out.len() as f64;
    let figures: Value = serde_json::from_str(&read("mine/metrics.json")).unwrap();
    let said = figures["tuned_held_out"]["negative_log_likelihood"]["value"].as_f64();
    assert!(
        (said.unwrap() - mean).abs() < 1e-4 * mean.abs().max(1.0),
        "{said:?} {mean}"
    );
}
