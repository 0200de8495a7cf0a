//! The recipe on the tiny model and the miniature BoolQ: learning, accumulation, repetition,
//! resume.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use burn::data::dataloader::batcher::Batcher;
use burn::module::{ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn::train::TrainStep;
use data::loader::LoaderState;
use data::source::Finder;
use data::{QuestionBatcher, StepPart};
use model::{AdapterConfig, InitialWeights, MixtureWeights, Placement};
use train::config::OnNan;
use train::context::Setup;
use train::dashboard::state::DashboardState;
use train::fine_tune::{RunOutcome, fine_tune};
use train::fitted::{LoadedRun, members};
use train::loss::calibration::CalibrationGradient;
use train::optimizer::OnePassAdamW;
use train::prepare::prepare;
use train::run_directory::{Environment, RunDirectory, read_predictions};
use train::step::Trainee;
use train::telemetry::Telemetry;
use train::tracker::MetricsLine;
use train::{RunConfig, TrainError};

use crate::support::{
    assert_close, devices, named_gradients, named_values, questions, tiny_adapted,
};

fn config() -> RunConfig {
    let mut config = RunConfig::default();
    config.model.name = "tiny".into();
    config.adapter.rank = 4;
    config.adapter.num_experts = 4;
    config.train.learning_rate = 5e-3;
    config.train.batch_size = 8;
    config.train.micro_batch = 8;
    config.train.checkpoint_every = 3;
    config.evaluation.bootstrap = 50;
    config
}

fn setup(root: &Path, resume: bool, device: &Device) -> Setup {
    let mut finder = Finder::from_env();
    finder.miniature = true;
    Setup {
        device: device.clone(),
        others: Vec::new(),
        finder,
        run: root.to_path_buf(),
        resume,
        environment: Environment {
            version: "test".into(),
            commit: None,
            device: "test".into(),
            threads: 1,
            command: "test".into(),
        },
        telemetry: Telemetry::new(Arc::new(Mutex::new(DashboardState::default()))),
        state: Arc::new(LoaderState::default()),
    }
}

/// The recipe from the first file on.
fn run(config: &RunConfig, setup: &Setup) -> Result<RunOutcome, TrainError> {
    fine_tune(config, setup, prepare(config, &setup.finder)?)
}

/// Every parameter of a finished run's adapter.
fn adapter(config: &RunConfig, root: &Path) -> BTreeMap<String, Vec<f32>> {
    let device = Device::flex();
    let (directory, _) = RunDirectory::open(root).unwrap();
    let setup = setup(root, false, &device);
    let prepared = prepare(config, &setup.finder).unwrap();
    let members = members(config, &directory, &prepared).unwrap();
    let loaded = LoadedRun::open(config, &setup, prepared, 0, &members).unwrap();
    named_values(&loaded.members[0])
}

/// The file of a finished run's adapter.
fn adapter_bytes(root: &Path) -> Vec<u8> {
    std::fs::read(RunDirectory::at(root).adapter()).unwrap()
}

fn finished(config: &RunConfig, root: &Path, device: &Device) -> Vec<MetricsLine> {
    let outcome = run(config, &setup(root, false, device)).unwrap();
    assert!(matches!(outcome, RunOutcome::Finished(_)), "{outcome:?}");
    RunDirectory::open(root).unwrap().0.metrics().unwrap()
}

#[test]
fn training_lowers_the_loss_and_writes_a_whole_run() {
    for (_, device, _) in devices() {
        let root = tempfile::tempdir().unwrap();
        let mut config = config();
        config.train.epochs = 6.0;
        let lines = finished(&config, root.path(), &device);
        let losses: Vec<f64> = lines
            .iter()
            .filter(|l| l.split == "train")
            .map(|l| l.values["cross_entropy"].as_f64().unwrap())
            .collect();
        assert_eq!(losses.len(), 36);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert!(mean(&losses[30..]) < 0.7 * mean(&losses[..6]), "{losses:?}");
        let mut useful = lines
            .iter()
            .filter(|l| l.split == "train")
            .map(|l| l.values["useful_tokens"].as_f64().unwrap());
        assert!(useful.all(|share| share > 0.0 && share <= 1.0));
        assert_eq!(lines.iter().filter(|l| l.split == "held_out").count(), 12);
        for file in [
            "config.toml",
            "environment.json",
            "data.json",
            "metrics.jsonl",
            "adapter/adapter.bpk",
            "evaluation/boolq/predictions.jsonl",
            "evaluation/boolq/metrics.json",
            "report.html",
            "report.md",
        ] {
            assert!(root.path().join(file).is_file(), "{file}");
        }
        let html = std::fs::read_to_string(root.path().join("report.html")).unwrap();
        assert!(html.contains("Not a result") && html.matches("<svg role=img").count() >= 6);
        // Four figures, then pictures, tables, errors, how it was made, and what its words mean.
        assert_eq!(html.matches("<div class=card>").count(), 4);
        let parts: Vec<&str> = html
            .split("<section class=part id=\"")
            .skip(1)
            .map(|part| part.split('"').next().unwrap())
            .collect();
        let expected = ["pictures", "figures", "errors", "provenance", "terms"];
        assert_eq!(parts, expected);
        assert!(!html.contains("http-equiv") && !html.contains("src="));
    }
}

#[test]
fn a_cpu_run_repeats_bit_for_bit_and_another_seed_differs() {
    let device = Device::flex();
    let roots: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut other = config();
    other.train.seed = 43;
    finished(&config(), roots[0].path(), &device);
    finished(&config(), roots[1].path(), &device);
    finished(&other, roots[2].path(), &device);
    let values: Vec<_> = roots
        .iter()
        .map(|root| adapter(&config(), root.path()))
        .collect();
    assert_eq!(values[0], values[1]);
    assert_ne!(values[0], values[2]);
    let bytes = |root: &tempfile::TempDir| adapter_bytes(root.path());
    assert_eq!(bytes(&roots[0]), bytes(&roots[1]));
}

#[test]
fn accumulated_micro_batches_equal_the_large_batch() {
    let device = Device::flex();
    let mut found = Vec::new();
    for micro_batch in [8, 1, 3] {
        let root = tempfile::tempdir().unwrap();
        let mut config = config();
        // Masks follow from a row's tokens, not from the micro-batch that it is in.
        config.adapter.dropout = 0.2;
        // Load balancing is a product of batch means: it alone depends on the micro-batch.
        config.objective.load_balancing_weight = 0.0;
        config.train.micro_batch = micro_batch;
        config.train.epochs = 1.0;
        config.train.learning_rate = 1e-3;
        finished(&config, root.path(), &device);
        found.push(adapter(&config, root.path()));
    }
    for other in &found[1..] {
        for (name, values) in &found[0] {
            // AdamW divides by the gradient's own size, which magnifies rounding where gradients
            // vanish.
            assert_close(name, &other[name], values, 5e-3);
        }
    }
}

#[test]
fn recomputed_layers_give_the_gradients_of_kept_ones() {
    let device = Device::flex().autodiff();
    for (method, placement, calibration_gradient, [use_dora, use_pissa]) in [
        (
            "uq4ct",
            Placement::All,
            CalibrationGradient::All,
            [false; 2],
        ),
        (
            "uq4ct",
            Placement::Ffn,
            CalibrationGradient::All,
            [false; 2],
        ),
        (
            "uq4ct",
            Placement::All,
            CalibrationGradient::Routers,
            [false; 2],
        ),
        ("lora", Placement::All, CalibrationGradient::All, [false; 2]),
        (
            "lora",
            Placement::All,
            CalibrationGradient::All,
            [true, false],
        ),
        (
            "lora",
            Placement::All,
            CalibrationGradient::All,
            [false, true],
        ),
        ("lora", Placement::All, CalibrationGradient::All, [true; 2]),
    ] {
        let mut config = config();
        config.adapter.use_dora = use_dora;
        if use_pissa {
            config.adapter.init_lora_weights = InitialWeights::Pissa;
        }
        config.objective.calibration_gradient = calibration_gradient;
        config.method.name = method.into();
        config.adapter.placement = placement;
        config.adapter.dropout = 0.2;
        let method = train::registry::build(&config).unwrap();
        let llama = tiny_adapted(&method.adapter(), &Device::flex());
        let mut batch = QuestionBatcher::default().batch(questions(3), &device);
        batch.training = Some(StepPart {
            seed: 5,
            ..StepPart::default()
        });
        let mut step = |recompute| {
            config.train.recompute = recompute;
            let trainee = Trainee::new(llama.clone(), method.clone(), &config.train, 3).train();
            let output = trainee.step(batch.clone());
            let loss = output.item.facts().loss();
            (loss, named_gradients(&trainee.llama, &output.grads))
        };
        let ((kept_loss, kept), (loss, recomputed)) = (step(false), step(true));
        let magnitudes = kept.keys().filter(|name| name.contains("magnitude"));
        assert_eq!(magnitudes.count() > 0, use_dora);
        assert!((loss - kept_loss).abs() < 1e-6 * kept_loss);
        assert_eq!(kept.len(), recomputed.len());
        let norm =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
        for (name, kept) in kept {
            let pairs = kept.iter().zip(&recomputed[&name]);
            let difference = norm(&mut pairs.map(|(a, b)| a - b));
            let size = norm(&mut kept.iter().copied());
            assert!(difference <= 1e-5 * size, "{name}: {difference} of {size}");
        }
    }
}

#[test]
fn a_stopped_run_goes_on_exactly_where_it_was() {
    stops_and_goes_on(config);
}

#[test]
fn the_routers_running_means_move_and_go_on_after_a_stop() {
    let normalized = || {
        let mut config = config();
        config.method.name = "uq4ct".into();
        config.adapter.mixture_weights = MixtureWeights::NormalizedDelta;
        config
    };
    let parameters = stops_and_goes_on(normalized);
    let masses = parameters.iter();
    let masses: Vec<f32> = masses
        .filter(|(name, _)| name.ends_with("running_mass"))
        .map(|(_, values)| values[0])
        .collect();
    let adapter = normalized().adapter;
    let even = adapter.top_k as f32 / adapter.num_experts as f32;
    // Two routers in each of two layers.
    assert_eq!(masses.len(), 4);
    assert!(
        masses.iter().all(|mass| *mass > even && *mass < 1.0),
        "{masses:?}"
    );
}

/// The adapter of a training, which is the same without a stop and with two.
fn stops_and_goes_on(config: impl Fn() -> RunConfig) -> BTreeMap<String, Vec<f32>> {
    let device = Device::flex();
    let straight = tempfile::tempdir().unwrap();
    finished(&config(), straight.path(), &device);
    let stopped = tempfile::tempdir().unwrap();
    // A stop before the first step takes effect after it: the smallest piece there is.
    let first = setup(stopped.path(), false, &device);
    first.state.stop.store(true, Ordering::SeqCst);
    assert_eq!(run(&config(), &first).unwrap(), RunOutcome::Stopped(1));
    // Another stop one step later, then to the end.
    let second = setup(stopped.path(), true, &device);
    second.state.stop.store(true, Ordering::SeqCst);
    assert_eq!(run(&config(), &second).unwrap(), RunOutcome::Stopped(2));
    let last = run(&config(), &setup(stopped.path(), true, &device)).unwrap();
    assert!(matches!(last, RunOutcome::Finished(_)));
    let whole = adapter(&config(), straight.path());
    assert_eq!(whole, adapter(&config(), stopped.path()));
    assert_eq!(
        adapter_bytes(straight.path()),
        adapter_bytes(stopped.path())
    );
    let steps = |root: &Path| -> Vec<(usize, serde_json::Value)> {
        let lines = RunDirectory::open(root).unwrap().0.metrics().unwrap();
        let train = lines.into_iter().filter(|l| l.split == "train");
        train.map(|l| (l.step, l.values["loss"].clone())).collect()
    };
    assert_eq!(steps(straight.path()), steps(stopped.path()));
    whole
}

/// A training that was stopped after one step and after two: two checkpoints.
fn stopped_twice(root: &Path, device: &Device) {
    for (resume, steps) in [(false, 1), (true, 2)] {
        let stopped = setup(root, resume, device);
        stopped.state.stop.store(true, Ordering::SeqCst);
        assert_eq!(
            run(&config(), &stopped).unwrap(),
            RunOutcome::Stopped(steps)
        );
    }
}

/// Goes on with such a training, one file of whose checkpoints is damaged: it is named, and the
/// training ends as one without damage.
fn goes_on_without(part: &str, root: &Path, straight: &Path, device: &Device) {
    let resumed = setup(root, true, device);
    let outcome = run(&config(), &resumed).unwrap();
    assert!(matches!(outcome, RunOutcome::Finished(_)), "{part}");
    let said = resumed.telemetry.state().log.clone();
    let named = said.iter().filter(|line| line.contains(part)).count();
    assert_eq!(named, 1, "{part}: {said:?}");
    assert_eq!(adapter_bytes(straight), adapter_bytes(root), "{part}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let device = Device::flex();
    let straight = tempfile::tempdir().unwrap();
    finished(&config(), straight.path(), &device);
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let emptied: Damage = |_| Vec::new();
    let flipped: Damage = |mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        bytes
    };
    // Steps that were never done.
    let moved_on: Damage = |_| br#"{"steps":5}"#.to_vec();
    let cases = [
        ("model-2.bpk", emptied),
        ("model-2.bpk", flipped),
        ("optim-2.bpk", flipped),
        ("scheduler-2.bpk", flipped),
        ("position-2.json", moved_on),
        ("digests-2.sha256", emptied),
    ];
    for (part, damage) in cases {
        let root = tempfile::tempdir().unwrap();
        stopped_twice(root.path(), &device);
        let path = root.path().join("checkpoint").join(part);
        std::fs::write(&path, damage(std::fs::read(&path).unwrap())).unwrap();
        goes_on_without(part, root.path(), straight.path(), &device);
    }
}

#[test]
fn a_damaged_checkpoint_of_an_earlier_version_is_passed_over_too() {
    let device = Device::flex();
    let straight = tempfile::tempdir().unwrap();
    finished(&config(), straight.path(), &device);
    for part in [
        "model-2.bpk",
        "optim-2.bpk",
        "scheduler-2.bpk",
        "position-2.json",
        "of another model",
    ] {
        let root = tempfile::tempdir().unwrap();
        stopped_twice(root.path(), &device);
        let folder = root.path().join("checkpoint");
        for chunk in [1, 2] {
            std::fs::remove_file(folder.join(format!("digests-{chunk}.sha256"))).unwrap();
        }
        let part = match part {
            "of another model" => {
                let other = tiny_adapted(&AdapterConfig::None, &device).into_record();
                other.save(folder.join("model-2.bpk")).unwrap();
                "model-2.bpk: does not fit the run's settings"
            }
            _ => {
                std::fs::write(folder.join(part), "").unwrap();
                part
            }
        };
        goes_on_without(part, root.path(), straight.path(), &device);
    }
}

#[test]
fn logs_that_changed_between_two_sessions_are_refused_by_name() {
    let device = Device::flex();
    for (log, from, to) in [
        ("metrics.jsonl", "\"step\":1", "\"step\":2"),
        ("prequential.jsonl", "\"label\":0", "\"label\":1"),
    ] {
        let root = tempfile::tempdir().unwrap();
        stopped_twice(root.path(), &device);
        let path = root.path().join(log);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = run(&config(), &setup(root.path(), true, &device)).unwrap_err();
        let error = error.to_string();
        assert!(
            error.contains(log) && error.contains("--overwrite"),
            "{error}"
        );
    }
}

#[test]
fn a_finished_training_is_not_repeated_on_resume_and_a_foreign_one_is_refused() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    finished(&config(), root.path(), &device);
    let before = adapter(&config(), root.path());
    std::fs::remove_file(root.path().join("report.html")).unwrap();
    let again = run(&config(), &setup(root.path(), true, &device)).unwrap();
    assert!(matches!(again, RunOutcome::Finished(_)));
    assert!(root.path().join("report.html").is_file());
    assert_eq!(before, adapter(&config(), root.path()));
    let mut other = config();
    other.train.learning_rate = 1.0;
    let error = run(&other, &setup(root.path(), true, &device)).unwrap_err();
    assert!(error.to_string().contains("other settings"), "{error}");
    let error = run(&config(), &setup(root.path(), false, &device)).unwrap_err();
    assert!(error.to_string().contains("already holds a run"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = run(&config(), &setup(empty.path(), true, &device)).unwrap_err();
    assert!(error.to_string().contains("nothing to resume"), "{error}");
}

/// A value of the first optimizer step, taken before anything is learned.
fn at_first_step(lines: &[MetricsLine], value: &str) -> Option<f64> {
    let first = lines.iter().find(|l| l.split == "train" && l.step == 1)?;
    first.values.get(value)?.as_f64()
}

#[test]
fn every_preset_and_switch_trains() {
    for preset in train::registry::method_presets() {
        let lines = |extra: &str| {
            let root = tempfile::tempdir().unwrap();
            let mut layers = train::config::ConfigLayers::default();
            layers.method(preset).unwrap();
            for set in [
                "model.name=tiny",
                "adapter.rank=2",
                "train.max_steps=2",
                "train.gradient_clip=0.5",
                "train.schedule=cosine",
                "train.warmup_steps=1",
                "evaluation.bootstrap=10",
                "data.dataset=arc-easy",
                &format!("objective.{extra}"),
            ] {
                layers.set(set).unwrap();
            }
            let lines = finished(&layers.resolve().unwrap(), root.path(), &Device::flex());
            let answers = root.path().join("evaluation/arc-easy/predictions.jsonl");
            let rows = read_predictions(&answers).unwrap();
            assert!(!rows.is_empty(), "{preset} {extra}");
            for row in rows {
                let sum: f64 = row.probabilities.iter().sum();
                assert!((sum - 1.0).abs() < 1e-4, "{preset} {extra}: {row:?}");
            }
            lines
        };
        let differ = |value: &str, one: &[MetricsLine], other: &[MetricsLine]| {
            let (one, other) = (at_first_step(one, value), at_first_step(other, value));
            if let (Some(one), Some(other)) = (one, other) {
                assert!(one.is_finite() && other.is_finite(), "{preset}: {value}");
                assert_ne!(one, other, "{preset}: {value}");
            }
        };
        let sequence = lines("cross_entropy=sequence");
        let choices = lines("cross_entropy=choices");
        differ("cross_entropy", &sequence, &choices);
        // A preset whose point is to read FLU from the answers, each right or not by its label.
        if preset == "uq4ct-answer" {
            continue;
        }
        let vocabulary = lines("correctness=vocabulary");
        differ("flu", &lines("flu_tokens=last"), &vocabulary);
        let mut layers = train::config::ConfigLayers::default();
        layers.method(preset).unwrap();
        let method = layers.resolve().unwrap().method.name;
        let entry = train::registry::entry(&method).unwrap();
        if entry.reads("objective.correctness") {
            differ("calibration_loss", &choices, &vocabulary);
        }
    }
}

#[test]
fn every_reading_of_the_calibration_loss_trains_another_adapter() {
    let answer = ["data.scoring=cloze", "objective.flu_tokens=answer"];
    let every_choice = [answer[0], answer[1], "objective.calibrated=choices"];
    let trained = [
        &[][..],
        &["objective.calibration_gradient=routers"],
        &["objective.correctness=soft"],
        &["objective.calibration_share=0.3"],
        &answer[..1],
        &answer,
        &every_choice,
    ]
    .map(|extra| {
        let root = tempfile::tempdir().unwrap();
        let mut layers = train::config::ConfigLayers::default();
        layers.method("uq4ct-delta").unwrap();
        let small = ["model.name=tiny", "adapter.rank=2", "train.max_steps=2"];
        for set in small.iter().chain(extra) {
            layers.set(set).unwrap();
        }
        layers.set("data.dataset=arc-easy").unwrap();
        let config = layers.resolve().unwrap();
        finished(&config, root.path(), &Device::flex());
        let adapter = adapter(&config, root.path());
        let values = adapter.values().flatten();
        assert!(values.clone().count() > 0 && values.clone().all(|v| v.is_finite()));
        (extra, adapter)
    });
    for (number, (extra, adapter)) in trained.iter().enumerate() {
        for (other, different) in &trained[..number] {
            assert_ne!(adapter, different, "{extra:?} and {other:?}");
        }
    }
}

#[test]
fn routers_may_learn_at_a_rate_of_their_own() {
    let device = Device::flex();
    let moved = |factor: f64| {
        let root = tempfile::tempdir().unwrap();
        let mut config = config();
        config.train.max_steps = Some(1);
        config.train.weight_decay = 0.0;
        config.train.router_rate_factor = factor;
        finished(&config, root.path(), &device);
        let after = adapter(&config, root.path());
        let method = train::registry::build(&config).unwrap();
        let mut prepared = prepare(&config, &setup(root.path(), false, &device).finder).unwrap();
        let base = prepared.load(&config, &device).unwrap();
        let fresh = base.attach(&method.adapter(), config.train.seed).unwrap();
        let before = named_values(&fresh);
        let largest = |name: &str| {
            let pairs = after[name].iter().zip(&before[name]);
            pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max)
        };
        let routers = largest("layers.0.mlp_router.weight");
        (routers, largest("layers.0.mlp.up_proj.lora_b"))
    };
    let ((plain, experts), (fast, same)) = (moved(1.0), moved(10.0));
    // AdamW's first step is the rate itself, whatever the gradient.
    assert!((plain - 5e-3).abs() < 1e-4, "{plain}");
    assert!((fast - 5e-2).abs() < 1e-3, "{fast}");
    assert_eq!(experts, same);
}

#[test]
fn two_devices_give_the_losses_of_one_with_the_same_global_batch() {
    for (name, device, tolerance) in devices() {
        two_give_the_losses_of_one(&name, &device, tolerance);
    }
}

/// A device that takes part twice, since two of a kind are seldom at hand: what is divided and
/// added up is the same, but nothing moves from card to card.
fn two_give_the_losses_of_one(name: &str, device: &Device, tolerance: f64) {
    let mut config = config();
    // The load balancing's means belong to the micro-batch; dropout's masks to the question.
    config.adapter.dropout = 0.2;
    config.objective.load_balancing_weight = 0.0;
    // Ten rows a step: the devices' shares are cut into micro-batches of unequal size.
    config.train.batch_size = 10;
    config.train.micro_batch = 3;
    let losses = |others: Vec<Device>| -> Vec<f64> {
        let root = tempfile::tempdir().unwrap();
        let setup = Setup {
            others,
            ..setup(root.path(), false, device)
        };
        assert!(matches!(
            run(&config, &setup).unwrap(),
            RunOutcome::Finished(_)
        ));
        let lines = RunDirectory::open(root.path())
            .unwrap()
            .0
            .metrics()
            .unwrap();
        let train = lines.iter().filter(|l| l.split == "train");
        train
            .map(|l| l.values["cross_entropy"].as_f64().unwrap())
            .collect()
    };
    let (one, two) = (losses(vec![]), losses(vec![device.clone()]));
    assert_eq!(one.len(), two.len());
    // 1e-5 on the processor; other devices round more, the more steps there were.
    let near = tolerance / 10.0;
    for (a, b) in one.iter().zip(&two) {
        assert!((a - b).abs() < near, "{name}: {one:?} {two:?}");
    }
}

#[test]
fn an_ensembles_answers_are_the_mean_of_its_members_and_a_checkpoint_ensemble_keeps_its_adapters() {
    let device = Device::flex();
    let root = tempfile::tempdir().unwrap();
    let mut config = config();
    config.method.name = "deep_ensemble".into();
    config.method.members = 2;
    finished(&config, root.path(), &device);
    let rows =
        |root: &Path| read_predictions(&root.join("evaluation/boolq/predictions.jsonl")).unwrap();
    let together = rows(root.path());
    let mut alone = Vec::new();
    for member in 0..2 {
        let own = tempfile::tempdir().unwrap();
        let mut config = config.clone();
        config.method.name = "lora".into();
        config.train.seed += member;
        finished(&config, own.path(), &device);
        alone.push(rows(own.path()));
    }
    for ((joint, a), b) in together.iter().zip(&alone[0]).zip(&alone[1]) {
        let mean = (a.probabilities[0] + b.probabilities[0]) / 2.0;
        assert!((joint.probabilities[0] - mean).abs() < 1e-6);
        assert!(joint.agreement.is_some_and(|share| share >= 0.5));
    }
    let root = tempfile::tempdir().unwrap();
    config.method.name = "checkpoint_ensemble".into();
    config.train.snapshots = 3;
    finished(&config, root.path(), &device);
    // Twelve steps: kept after 8 and 10, and the last.
    for step in [8, 10] {
        assert!(
            root.path()
                .join(format!("adapter/snapshot-{step}.bpk"))
                .is_file()
        );
    }
    let scored = rows(root.path());
    assert!(scored.iter().all(|row| row.agreement.is_some()));
}

#[test]
fn a_step_whose_gradient_is_no_number_is_left_out_where_that_is_asked_for() {
    struct Spoil<'a>(&'a mut GradientsParams);
    impl ModuleVisitor for Spoil<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                self.0.register(param.id, gradient * f32::NAN);
            }
        }
    }
    let device = Device::flex().autodiff();
    for (on_nan, spoiled, moves, finite) in [
        (OnNan::Skip, false, true, true),
        (OnNan::Skip, true, false, true),
        (OnNan::Stop, true, true, false),
    ] {
        let mut config = config();
        config.train.on_nan = on_nan;
        let method = train::registry::build(&config).unwrap();
        let llama = tiny_adapted(&method.adapter(), &Device::flex());
        let trainee = Trainee::new(llama, method, &config.train, 3).train();
        let before = named_values(&trainee);
        let mut batch = QuestionBatcher::default().batch(questions(3), &device);
        batch.training = Some(StepPart {
            step: 7,
            share: 1.0,
            ..StepPart::default()
        });
        let output = trainee.step(batch);
        let mut gradients = output.grads;
        if spoiled {
            trainee.visit(&mut Spoil(&mut gradients));
        }
        let mut optimizer = OnePassAdamW::new(0.0).into();
        let trainee = trainee.optimize(&mut optimizer, 0.01.into(), gradients);
        let after = named_values(&trainee);
        let all = after.values().flatten();
        assert_eq!(all.clone().all(|v| v.is_finite()), finite, "{on_nan:?}");
        assert_eq!(before != after, moves, "{on_nan:?} {spoiled}");
        let norm = output.item.facts().gradient_norm.unwrap();
        assert_eq!(norm.is_finite(), !spoiled);
        assert!(spoiled || norm > 0.0);
    }
}
