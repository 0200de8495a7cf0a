//! What graphics cards compile. Each test runs in a process of its own, where nobody else compiles.

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

/// One epoch after another of ragged batches, trained and asked; what each of them compiled.
fn epochs(device: &Device, count: usize) -> Vec<Made> {
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
        for batch in loader.iter() {
            let batch = batch.unwrap();
            let step = TrainStep::step(&trainee, batch.clone());
            trainee = trainee.optimize(&mut optimizer, 1e-3.into(), step.grads);
            step.item.facts();
            InferenceStep::step(&trainee.valid(), batch).facts();
        }
        let now = Made::settled();
        found.push(now - before);
        before = now;
    }
    found
}

#[test]
fn a_second_epoch_of_ragged_batches_compiles_nothing() {
    let cards: Vec<_> = devices()
        .into_iter()
        .filter(|(name, ..)| name.contains(':'))
        .collect();
    if cards.is_empty() {
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        return alone("kernels::a_second_epoch_of_ragged_batches_compiles_nothing");
    }
    tracing_subscriber::registry().with(counter()).init();
    for (name, device, _) in cards {
        let found = epochs(&device, 3);
        println!("{name}: {found:?}");
        assert!(found[0].compiled > 0, "{name}: nothing was counted");
        for later in &found[1..] {
            assert_eq!(*later, Made::default(), "{name}: {found:?}");
        }
    }
}
