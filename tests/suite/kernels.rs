//! What graphics cards compile: counted in processes of their own, where nobody else compiles.

use std::process::Command;
use std::sync::Arc;

use burn::data::dataloader::DataLoader;
use burn::optim::ModuleOptimizer;
use burn::prelude::*;
use burn::train::{InferenceStep, TrainStep};
use data::encoded::EncodedQuestion;
use data::loader::{LoaderState, TrainLoader};
use data::schedule::Schedule;
use data::{BatchOptions, QuestionBatcher};
use tracing_subscriber::prelude::*;
use train::optimizer::OnePassAdamW;
use train::step::Trainee;
use uq4ct::kernels::{Made, counter};

use crate::support::programs::{refuses, succeeds};
use crate::support::{devices, tiny_adapted};

/// Says that this process is the child.
const CHILD: &str = "UQ4CT_TEST_KERNELS";

/// Runs a test of this file again, alone in a process.
fn alone(test: &str) {
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program)
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{said}");
}

/// The devices that compile.
fn cards() -> Vec<(String, Device, f64)> {
    let mut all = devices();
    all.retain(|(name, ..)| name.contains(':'));
    all
}

/// Questions of every length from 5 tokens up to 70, in no order.
fn ragged() -> Vec<EncodedQuestion> {
    (0..40)
        .map(|i| {
            let length = 5 + i * 37 % 66;
            let prompt = (0..length).map(|t| (3 + i * 31 + t * 17) as u32 % 250);
            EncodedQuestion::lettered(&format!("q{i}"), prompt.collect(), &[100, 103, 106], i % 3)
        })
        .collect()
}

/// What batches of ragged rows compiled, by rows and length of the batch, in each of some epochs of
/// training and asking. Each epoch cuts the rows into other batches: it meets shapes of before, and
/// new ones.
fn epochs(device: &Device, count: usize) -> Vec<Vec<([usize; 2], Made)>> {
    let mut config = train::RunConfig::default();
    config.adapter.rank = 3;
    config.adapter.num_experts = 4;
    config.adapter.dropout = 0.1;
    config.train.gradient_clip = Some(1.0);
    let method = train::registry::build(&config).unwrap();
    let llama = tiny_adapted(&method.adapter(), device);
    let mut trainee = Trainee::new(llama, method, &config.train, 40).train();
    let mut optimizer = ModuleOptimizer::from(OnePassAdamW::new(0.0));
    let schedule = Schedule {
        batch_size: 8,
        micro_batch: 8,
        micro_tokens: 256,
        epochs: count as f64,
        max_steps: None,
        checkpoint_every: 100,
        snapshots: 0,
        seed: 3,
        bucket: false,
    };
    let batcher = QuestionBatcher {
        options: BatchOptions::default(),
    };
    let tracked = device.clone().autodiff();
    let state = Arc::new(LoaderState::default());
    let loader = TrainLoader::new(Arc::new(ragged()), batcher, schedule, state, &tracked);
    let mut found = Vec::new();
    let mut before = Made::settled();
    for _ in 0..count {
        let mut batches = Vec::new();
        for batch in loader.iter() {
            let batch = batch.unwrap();
            let shape = batch.input.tokens.dims();
            let step = TrainStep::step(&trainee, batch.clone());
            trainee = trainee.optimize(&mut optimizer, 1e-3.into(), step.grads);
            step.item.facts();
            InferenceStep::step(&trainee.valid(), batch).facts();
            let now = Made::settled();
            batches.push((shape, now - before));
            before = now;
        }
        found.push(batches);
    }
    found
}

#[test]
fn a_shape_of_batch_that_was_met_before_compiles_nothing() {
    let cards = cards();
    if cards.is_empty() {
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        return alone("kernels::a_shape_of_batch_that_was_met_before_compiles_nothing");
    }
    tracing_subscriber::registry().with(counter()).init();
    for (name, device, _) in cards {
        let found = epochs(&device, 3);
        assert!(found[0][0].1.compiled > 0, "{name}: nothing was counted");
        let mut known = Vec::new();
        for (epoch, batches) in found.iter().enumerate() {
            for (shape, made) in batches {
                println!("{name}, epoch {epoch}: {shape:?}: {made}");
            }
            // An optimizer's first steps differ from its later ones. New shapes may compile.
            let again = batches.iter().filter(|(shape, _)| known.contains(shape));
            for (shape, made) in again.filter(|_| epoch > 0) {
                assert_eq!(*made, Made::default(), "{name}: {shape:?} again");
            }
            known.extend(batches.iter().map(|(shape, _)| *shape));
        }
    }
}

#[test]
fn warm_makes_what_a_card_needs_and_has_nothing_to_do_for_a_processor() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let warm = ["warm", "--model", "tiny", "--longest", "20"];
    let with = |more: &[&'static str]| [&warm, more].concat();
    refuses(
        root,
        &with(&["--device", "cpu"]),
        &["a processor compiles nothing"],
    );
    for more in [
        &["--force"][..],
        &["--force", "--method", "lora", "--set", "data.scoring=cloze"],
    ] {
        let said = succeeds(root, &[&with(&["--device", "cpu"]), more].concat());
        assert!(said.contains("questions of 16 tokens (1 of 2)"), "{said}");
        assert!(said.contains("0 kernels compiled"), "{said}");
    }
    for (name, ..) in cards() {
        let said = succeeds(root, &[&with(&["--device"]), &[&*name][..]].concat());
        let all = said.lines().find(|line| line.contains("choices tuned in"));
        assert!(
            all.is_some_and(|line| !line.starts_with("0 kernels compiled")),
            "{name}: {said}"
        );
        if name.starts_with("cuda") {
            let kept = root.join("cache/kernels").read_dir().unwrap();
            assert!(kept.count() > 0, "{name}: nothing is kept");
        }
    }
}
