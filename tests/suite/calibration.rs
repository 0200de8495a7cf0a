//! The readings of the calibration loss that the paper leaves open: whose gradient, which tokens,
//! which answers, which questions.

use std::collections::BTreeMap;

use burn::data::dataloader::batcher::Batcher;
use burn::module::Module;
use burn::prelude::*;
use burn::train::{InferenceStep, TrainStep};
use data::Batch;
use data::encoded::{Continuation, EncodedQuestion};
use data::seed::hash_name;
use model::{DropoutSeed, Llama};
use train::RunConfig;
use train::forward::{self, choice_logits};
use train::functional_uncertainty::{FluTokens, functional_uncertainty};
use train::loss::calibration::{CalibratedAnswers, CalibrationGradient, Correctness};
use train::registry;
use train::step::Trainee;

use crate::support::{
    assert_close, devices, exact, floats, named_gradients, questions, tiny_adapted,
};

/// Questions whose choices are texts of one to three tokens; the second has a choice less.
fn cloze(whole_choices: bool) -> Vec<EncodedQuestion> {
    let texts: [&[&[u32]]; 3] = [
        &[&[70, 71, 72], &[73, 74], &[75]],
        &[&[80], &[81, 82]],
        &[&[90, 91], &[92], &[93, 94, 95]],
    ];
    let prompts = questions(3).into_iter().zip(texts);
    let asked = prompts.map(|(question, texts)| EncodedQuestion {
        choices: texts
            .iter()
            .map(|tokens| Continuation {
                tokens: tokens.to_vec(),
                weight: 1.0 / tokens.len() as f32,
            })
            .collect(),
        answer: 1,
        whole_choices,
        ..question
    });
    asked.collect()
}

fn batch(rows: Vec<EncodedQuestion>, device: &Device) -> Batch {
    exact().batch(rows, device)
}

fn config() -> RunConfig {
    let mut config = RunConfig::default();
    config.adapter.rank = 3;
    config.adapter.num_experts = 4;
    config.adapter.dropout = 0.0;
    config
}

fn llama(config: &RunConfig, device: &Device) -> Llama {
    tiny_adapted(&registry::build(config).unwrap().adapter(), device)
}

/// The values of a training step's terms, and the gradient of every parameter.
fn step(
    config: &RunConfig,
    rows: &[EncodedQuestion],
) -> (BTreeMap<&'static str, f64>, BTreeMap<String, Vec<f32>>) {
    let method = registry::build(config).unwrap();
    let llama = llama(config, &Device::flex());
    let trainee = Trainee::new(llama, method, &config.train, rows.len()).train();
    let asked = batch(rows.to_vec(), &Device::flex().autodiff());
    let found = TrainStep::step(&trainee, asked);
    let terms = &found.item.facts().terms;
    let values = terms.iter().map(|(name, _, value)| (*name, *value));
    (
        values.collect(),
        named_gradients(&trainee.llama, &found.grads),
    )
}

#[test]
fn a_loss_that_trains_the_routers_alone_leaves_the_experts_as_they_are_without_it() {
    let rows = questions(4);
    let mut of = config();
    let (_, all) = step(&of, &rows);
    of.objective.calibration_gradient = CalibrationGradient::Routers;
    let (_, routers) = step(&of, &rows);
    of.objective.calibration_weight = 0.0;
    let (_, none) = step(&of, &rows);
    for (name, gradient) in &routers {
        if name.contains("router") {
            assert_ne!(gradient, &none[name], "{name}");
        } else {
            assert_eq!(gradient, &none[name], "{name}");
            // A last projection's output reaches no router.
            let last = name.starts_with("layers.1.mlp");
            assert_eq!(gradient == &all[name], last, "{name}");
        }
    }
    // Nothing lies behind the last router's input that could lead to another router.
    let last = "layers.1.mlp_router.weight";
    assert_close(last, &routers[last], &all[last], 1e-5);
}

#[test]
fn flu_of_an_answer_is_that_of_its_own_tokens_after_the_prompt() {
    for (name, device, tolerance) in devices() {
        let mut config = config();
        config.data.scoring = data::rendering::Scoring::Cloze;
        config.objective.flu_tokens = FluTokens::Answer;
        let llama = llama(&config, &device);
        let rows = cloze(true);
        let asked = batch(rows.clone(), &device);
        let output = llama.forward(&forward::input(&asked, DropoutSeed::OFF));
        let choice_mean = asked.means.choices.clone().unwrap();
        let together = floats(functional_uncertainty(&output.routing, &choice_mean));
        // Each choice in a row of its own, as a prompt that goes on.
        let mut alone = Vec::new();
        for row in &rows {
            for choice in 0..3 {
                let Some(text) = row.choices.get(choice) else {
                    alone.push(0.0);
                    continue;
                };
                let prompt = [&row.prompt[..], &text.tokens].concat();
                let length = prompt.len();
                let single = EncodedQuestion::lettered("", prompt, &[1], 0);
                let single = batch(vec![single], &device);
                let output = llama.forward(&forward::input(&single, DropoutSeed::OFF));
                let own = text.tokens.len();
                let weights: Vec<f32> = (0..length)
                    .map(|at| f32::from(u8::from(at + own >= length)) / own as f32)
                    .collect();
                let weights =
                    Tensor::<2>::from_data(TensorData::new(weights, [1, length]), &device);
                alone.extend(floats(functional_uncertainty(&output.routing, &weights)));
            }
        }
        assert_close(&name, &together, &alone, tolerance);
        // Choices score as before, and what is reported is the predicted one's.
        let scores = |asked: &Batch| {
            let output = llama.forward(&forward::input(asked, DropoutSeed::OFF));
            floats(choice_logits(output.logits, asked))
        };
        let finite = |values: Vec<f32>| values.into_iter().filter(|v| v.is_finite()).collect();
        let (whole, before): (Vec<f32>, Vec<f32>) = (
            finite(scores(&asked)),
            finite(scores(&batch(cloze(false), &device))),
        );
        assert_close(&name, &whole, &before, tolerance);
        let method = registry::build(&config).unwrap();
        let found = Trainee::new(llama, method, &config.train, 3);
        let found = InferenceStep::step(&found, asked);
        for (row, scored) in found.facts().rows.iter().enumerate() {
            let own = f64::from(together[row * 3 + scored.prediction()]);
            assert!((scored.flu.unwrap() - own).abs() < 1e-6);
        }
    }
}

#[test]
fn every_choice_can_be_compared_with_its_being_right() {
    let mut of = config();
    of.data.scoring = data::rendering::Scoring::Cloze;
    of.objective.flu_tokens = FluTokens::Answer;
    of.objective.calibrated = CalibratedAnswers::Choices;
    let (values, _) = step(&of, &cloze(true));
    let device = Device::flex();
    let asked = batch(cloze(true), &device);
    let output = llama(&of, &device).forward(&forward::input(&asked, DropoutSeed::OFF));
    let flu = floats(functional_uncertainty(
        &output.routing,
        &asked.means.choices.unwrap(),
    ));
    let square = |question: usize, choice: usize| {
        let right = f32::from(u8::from(choice == 1));
        f64::from((right - flu[question * 3 + choice]).powi(2))
    };
    let mean = |question, choices: usize| {
        (0..choices).map(|c| square(question, c)).sum::<f64>() / choices as f64
    };
    let by_hand = (mean(0, 3) + mean(1, 2) + mean(2, 3)) / 3.0;
    assert!((values["calibration_loss"] - by_hand).abs() < 1e-6);
}

#[test]
fn soft_correctness_is_the_probability_of_the_right_choice_and_a_constant() {
    let rows = questions(5);
    let mut of = config();
    of.objective.load_balancing_weight = 0.0;
    of.objective.correctness = Correctness::Soft;
    let (values, _) = step(&of, &rows);
    let device = Device::flex();
    let asked = batch(rows.clone(), &device);
    let model = llama(&of, &device);
    let output = model.forward(&forward::input(&asked, DropoutSeed::OFF));
    let flu = floats(functional_uncertainty(&output.routing, &asked.means.prompt));
    let method = registry::build(&of).unwrap();
    let trainee = Trainee::new(model, method, &of.train, 5);
    let found = InferenceStep::step(&trainee, asked);
    let scored = found.facts().rows.iter().zip(&flu);
    let squares = scored.map(|(row, flu)| (row.probabilities[row.label] - f64::from(*flu)).powi(2));
    let by_hand = squares.sum::<f64>() / 5.0;
    assert!((values["calibration_loss"] - by_hand).abs() < 1e-5);
    // The last projections reach the probabilities but no router: the target sends nothing back.
    let (_, with) = step(&of, &rows);
    of.objective.calibration_weight = 0.0;
    let (_, without) = step(&of, &rows);
    let name = "layers.1.mlp.down_proj.lora_b";
    assert_eq!(with[name], without[name]);
}

#[test]
fn questions_set_apart_serve_the_calibration_loss_alone() {
    let mut rows = questions(6);
    for (number, row) in rows.iter_mut().enumerate() {
        row.id = format!("question {number}");
    }
    let share = 0.4;
    let apart = |row: &EncodedQuestion| (hash_name(0, &row.id) as f64) < share * u64::MAX as f64;
    let (aside, learned): (Vec<_>, Vec<_>) = rows.iter().cloned().partition(apart);
    assert!(!aside.is_empty() && !learned.is_empty());
    let mut of = config();
    of.objective.load_balancing_weight = 0.0;
    let alone = |rows: &[EncodedQuestion], term| step(&of, rows).0[term] * rows.len() as f64;
    let cross_entropy = alone(&learned, "cross_entropy") / (6.0 * (1.0 - share));
    let calibration = alone(&aside, "calibration_loss") / (6.0 * share);
    let mut shared = of.clone();
    shared.objective.calibration_share = share;
    let (values, _) = step(&shared, &rows);
    assert!((values["cross_entropy"] - cross_entropy).abs() < 1e-5);
    assert!((values["calibration_loss"] - calibration).abs() < 1e-5);
    // By name, about as many as asked for.
    let many =
        (0..4000).filter(|i| (hash_name(0, &format!("arc-{i}")) as f64) < share * u64::MAX as f64);
    assert!((many.count() as f64 / 4000.0 - share).abs() < 0.03);
}

#[test]
fn settings_that_need_others_are_refused() {
    let refused = |sets: &[&str], what: &str| {
        let mut layers = train::config::ConfigLayers::default();
        for set in sets {
            layers.set(set).unwrap();
        }
        let error = layers.resolve().unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(&["objective.flu_tokens=answer"], "data.scoring = cloze");
    refused(&["objective.calibrated=choices"], "flu_tokens = answer");
    refused(&["objective.calibration_share=1.0"], "got 1");
    refused(
        &[
            "objective.calibration_share=0.2",
            "objective.cross_entropy=sequence",
        ],
        "every question is learned",
    );
    refused(&["train.router_rate_factor=0.0"], "positive");
    let open = "data.dataset=triviaqa";
    refused(&[open, "objective.flu_tokens=answer"], "open-ended");
    refused(&[open, "objective.correctness=soft"], "open-ended");
    refused(
        &[
            "data.scoring=cloze",
            "objective.flu_tokens=answer",
            "objective.calibrated=choices",
            "objective.correctness=soft",
        ],
        "by its label",
    );
}
