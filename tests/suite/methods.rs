//! The uncertainty methods against PyTorch and scipy (`tests/fixtures/make_methods.py`), and
//! against themselves.

use burn::data::dataloader::batcher::Batcher;
use burn::optim::GradientsParams;
use burn::prelude::*;
use data::seed::mix;
use data::{Continuation, EncodedQuestion, QuestionBatcher};
use model::{AdapterConfig, DropoutSeed, Llama};
use serde_json::Value;
use train::RunConfig;
use train::config::{Layers, Predictive, Prior, PriorFrom};
use train::forward::{self, choice_logits};
use train::method::laplace::{Factor, Jacobians, Probed, jacobians, posterior};
use train::method::{FitContext, Predictor};
use train::posthoc::PostHoc;
use train::posthoc::confidence::Confidence;
use train::posthoc::conformal::{Conformal, Score};
use train::posthoc::temperature::Temperature;
use train::prediction::ScoredRow;
use train::registry;
use train::step::Trainee;

use crate::parity;
use crate::support::{
    assert_close, devices, fixture, floats, load_adapter, named_gradients, questions, tiny_adapted,
};

fn expected() -> Value {
    let text = std::fs::read_to_string(fixture("methods.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

/// The tiny reference model with its trained LoRA.
fn reference(device: &Device) -> Llama {
    let lora = AdapterConfig::Lora(parity::lora());
    let fresh = parity::load("llama", device).attach(&lora, 1).unwrap();
    load_adapter(fresh, &fixture("parity/adapter_lora/adapter.safetensors"))
}

#[test]
fn all_choices_in_one_pass_equal_separate_forwards() {
    let expected = expected();
    let texts = expected["cloze_choices"].as_array().unwrap();
    for (name, device, tolerance) in devices() {
        let mut rows = parity::questions();
        for (row, texts) in rows.iter_mut().zip(texts) {
            let texts = texts.as_array().unwrap().iter();
            row.choices = texts
                .map(|tokens| Continuation {
                    tokens: numbers(tokens).iter().map(|t| *t as u32).collect(),
                    weight: 1.0,
                })
                .collect();
            row.answer = 1;
        }
        let llama = reference(&device);
        for pad_left in [false, true] {
            let options = data::BatchOptions {
                sequence_targets: true,
                pad_left,
                ..Default::default()
            };
            let batch = QuestionBatcher { options }.batch(rows.clone(), &device);
            let output = llama.forward(&forward::input(&batch, DropoutSeed::OFF));
            let scores = floats(choice_logits(forward::read_logits(&output, &batch), &batch));
            let found: Vec<f32> = scores.into_iter().filter(|s| s.is_finite()).collect();
            assert_close(&name, &found, &numbers(&expected["cloze"]), tolerance);
        }
        // The choices of a row share its prompt: fewer tokens than in a row for each of them.
        let batch = QuestionBatcher::default().batch(rows.clone(), &device);
        let apart = |row: &EncodedQuestion| -> usize {
            let texts = row.choices.iter();
            texts.map(|text| row.prompt.len() + text.tokens.len()).sum()
        };
        assert!(batch.computed_tokens() < rows.iter().map(apart).sum());
        // What is read after a prompt's last token is what a batch of letters reads there.
        let prompts = rows.iter().map(|row| row.prompt.clone());
        let letters = prompts.map(|prompt| EncodedQuestion::lettered("", prompt, &[1, 2], 0));
        let letters = QuestionBatcher::default().batch(letters.collect(), &device);
        let logits = |batch: &data::Batch| {
            let output = llama.forward(&forward::input(batch, DropoutSeed::OFF));
            floats(output.logits.narrow(0, 0, rows.len()))
        };
        assert_close(&name, &logits(&batch), &logits(&letters), tolerance);
    }
}

/// `U diag(values) U^T`
fn product(factor: &Factor) -> Vec<f32> {
    let values: Vec<f32> = factor.values.iter().map(|v| *v as f32).collect();
    let n = values.len();
    let device = factor.vectors.device();
    let diagonal = Tensor::<2>::from_data(TensorData::new(values, [1, n]), &device);
    let scaled = factor.vectors.clone() * diagonal;
    floats(scaled.matmul(factor.vectors.clone().transpose()))
}

fn laplace_config(predictive: Predictive) -> RunConfig {
    let mut config = RunConfig::default();
    config.method.name = "laplace".into();
    config.method.laplace.directions = 32;
    config.method.laplace.samples = 20_000;
    config.method.laplace.predictive = predictive;
    config
}

fn context<'a>(questions: &'a [EncodedQuestion], device: &'a Device) -> FitContext<'a> {
    FitContext {
        questions,
        all_questions: questions.len(),
        held_out: questions,
        batch_tokens: 1000,
        seed: 7,
        ..FitContext::without_questions(device)
    }
}

#[test]
fn laplace_equals_dense_linear_algebra() {
    let expected = &expected()["laplace"];
    for (name, device, tolerance) in devices() {
        let rows = parity::questions();
        let config = laplace_config(Predictive::Sampled);
        let probed = Probed::new(reference(&device), Layers::All);
        let found = posterior(
            &probed,
            None,
            &config.method.laplace,
            &context(&rows, &device),
        )
        .unwrap();
        let close = |what: &str, found: &[f32], value: &Value, tolerance: f64| {
            assert_close(
                &format!("{what} on {name}"),
                found,
                &numbers(value),
                tolerance,
            );
        };
        let first = &found.blocks[0];
        close(
            "A's inputs",
            &product(&first.inputs),
            &expected["first_inputs"],
            10.0 * tolerance,
        );
        close(
            "A's gradients",
            &product(&first.gradients),
            &expected["first_gradients"],
            10.0 * tolerance,
        );
        let trace: f64 = found.blocks.last().unwrap().gradients.values.iter().sum();
        close(
            "trace",
            &[trace as f32],
            &expected["last_gradients_trace"],
            10.0 * tolerance,
        );
        close("prior", &[found.priors[0] as f32], &expected["prior"], 1e-2);
        assert_eq!(found.priors[0], found.priors[1]);
        let evidence = [
            found.log_evidence([1.0; 2]) as f32,
            found.log_evidence(found.priors) as f32,
        ];
        close("evidence", &evidence[..1], &expected["evidence_at_1"], 1e-2);
        close(
            "evidence",
            &evidence[1..],
            &expected["evidence_at_prior"],
            1e-2,
        );
        for (row, value) in rows.iter().zip(expected["questions"].as_array().unwrap()) {
            let batch = QuestionBatcher::default().batch(vec![row.clone()], &device);
            let j = jacobians(&probed, &batch, &device);
            close(
                "logits",
                &floats(j.logits.clone()),
                &value["logits"],
                10.0 * tolerance,
            );
            close(
                "Jacobian",
                &floats(j.matrices[0].clone()),
                &value["first_jacobian"],
                10.0 * tolerance,
            );
            let norms: Vec<f32> = (0..4)
                .flat_map(|c| {
                    let norm = |m: &Tensor<4>| {
                        m.clone()
                            .narrow(1, c, 1)
                            .square()
                            .sum()
                            .sqrt()
                            .into_scalar::<f32>()
                    };
                    j.matrices.iter().map(norm).collect::<Vec<_>>()
                })
                .collect();
            close("norms", &norms, &value["jacobian_norms"], 10.0 * tolerance);
            let covariance = found
                .blocks
                .iter()
                .zip(&j.matrices)
                .map(|(block, m)| block.covariance(m.clone(), found.priors[0]))
                .reduce(|a, b| a + b)
                .unwrap();
            close(
                "covariance",
                &floats(covariance),
                &value["covariance"],
                2e-2,
            );
        }
        for (predictive, key, tolerance) in [
            (Predictive::Sampled, "sampled", 2e-2),
            (Predictive::Probit, "probit", 1e-2),
        ] {
            let method = registry::build(&laplace_config(predictive)).unwrap();
            let predictor = method
                .fit(vec![reference(&device)], &context(&rows, &device))
                .unwrap();
            let batch = QuestionBatcher::default().batch(rows.clone(), &device);
            let scored = predictor.predict(&batch).rows(&batch).unwrap();
            for (row, value) in scored.iter().zip(expected["questions"].as_array().unwrap()) {
                let p: Vec<f32> = row.probabilities.iter().map(|p| *p as f32).collect();
                close(key, &p, &value[key], tolerance);
            }
        }
    }
}

#[test]
fn laplace_of_few_directions_and_of_the_last_layer_stays_between_prior_and_whole() {
    let device = Device::flex();
    let rows = parity::questions();
    let covariance = |layers: Layers, directions: usize| -> Vec<f32> {
        let mut config = laplace_config(Predictive::Sampled);
        config.method.laplace.directions = directions;
        config.method.laplace.prior_precision = Some(1.0);
        let probed = Probed::new(reference(&device), layers);
        let found = posterior(
            &probed,
            None,
            &config.method.laplace,
            &context(&rows, &device),
        )
        .unwrap();
        let batch = QuestionBatcher::default().batch(rows.clone(), &device);
        let j = jacobians(&probed, &batch, &device);
        let blocks = found.blocks.iter().zip(&j.matrices);
        let sum = blocks
            .map(|(block, m)| block.covariance(m.clone(), found.priors[0]))
            .reduce(|a, b| a + b);
        floats(sum.unwrap())
    };
    let trace = |values: &[f32]| -> f32 { (0..4).map(|c| values[c * 5]).sum() };
    let whole = trace(&covariance(Layers::All, 32));
    let few = trace(&covariance(Layers::All, 4));
    let fewer = trace(&covariance(Layers::All, 1));
    // Directions that are left out keep the prior's variance, which is larger.
    assert!(
        whole <= few * 1.001 && few <= fewer * 1.001,
        "{whole} {few} {fewer}"
    );
    assert!(few < 1.5 * whole, "{few} {whole}");
    let last = trace(&covariance(Layers::Last, 32));
    assert!(last > 0.0 && last < whole, "{last} {whole}");
}

#[test]
fn precisions_by_matrix_have_the_larger_evidence_and_each_is_at_its_top() {
    let device = Device::flex();
    let rows = parity::questions();
    let config = laplace_config(Predictive::Sampled);
    let probed = Probed::new(reference(&device), Layers::All);
    let found = posterior(
        &probed,
        None,
        &config.method.laplace,
        &context(&rows, &device),
    )
    .unwrap();
    let [shared, own] = [Prior::Shared, Prior::ByMatrix].map(|prior| found.best_priors(prior));
    let top = found.log_evidence(own);
    assert!(
        top > found.log_evidence(shared) + 1e-3,
        "{own:?} {shared:?}"
    );
    for factor in [0.9, 1.1] {
        assert!(found.log_evidence([own[0] * factor, own[1]]) < top);
        assert!(found.log_evidence([own[0], own[1] * factor]) < top);
        assert!(
            found.log_evidence(shared.map(|prior| prior * factor)) < found.log_evidence(shared)
        );
    }
    // The shared one lies between them.
    assert!(own[0].min(own[1]) < shared[0] && shared[0] < own[0].max(own[1]));
}

/// `tr(H J P^-1 J^T)` of one block by dense algebra: the precision `F + lambda` as a whole matrix,
/// and a solution of `P x = j` by elimination.
fn dense_leverage(jacobian: &[Vec<f64>], p: &[f64], prior: f64) -> f64 {
    let n = jacobian[0].len();
    let fisher = |c: usize, d: usize| f64::from(u8::from(c == d)) * p[c] - p[c] * p[d];
    let mut precision = vec![vec![0.0; n]; n];
    for (c, left) in jacobian.iter().enumerate() {
        for (d, right) in jacobian.iter().enumerate() {
            for i in 0..n {
                for j in 0..n {
                    precision[i][j] += left[i] * fisher(c, d) * right[j];
                }
            }
        }
    }
    for (i, row) in precision.iter_mut().enumerate() {
        row[i] += prior;
    }
    let solve = |right: &[f64]| -> Vec<f64> {
        let (mut m, mut x) = (precision.clone(), right.to_vec());
        // Positive definite: no pivots are needed.
        for i in 0..n {
            let pivot = m[i].clone();
            for k in i + 1..n {
                let factor = m[k][i] / pivot[i];
                for (value, above) in m[k].iter_mut().zip(&pivot) {
                    *value -= factor * above;
                }
                x[k] -= factor * x[i];
            }
        }
        for i in (0..n).rev() {
            let rest: f64 = (i + 1..n).map(|j| m[i][j] * x[j]).sum();
            x[i] = (x[i] - rest) / m[i][i];
        }
        x
    };
    let mut sum = 0.0;
    for (c, row) in jacobian.iter().enumerate() {
        let solved = solve(row);
        for (d, other) in jacobian.iter().enumerate() {
            let product: f64 = other.iter().zip(&solved).map(|(a, b)| a * b).sum();
            sum += fisher(c, d) * product;
        }
    }
    sum
}

#[test]
fn a_questions_leverage_equals_dense_algebra_and_sums_to_the_effective_parameters() {
    let device = Device::flex();
    let mut config = laplace_config(Predictive::Sampled);
    config.method.laplace.directions = 64;
    config.method.laplace.prior_precision = Some(1e-2);
    let probed = Probed::new(reference(&device), Layers::All);
    let of = |config: &RunConfig, rows: &[EncodedQuestion]| {
        posterior(
            &probed,
            None,
            &config.method.laplace,
            &context(rows, &device),
        )
        .unwrap()
    };
    let seen = |rows: &[EncodedQuestion]| {
        let batch = QuestionBatcher::default().batch(rows.to_vec(), &device);
        jacobians(&probed, &batch, &device)
    };
    // One token of one question: the Kronecker product of a block is the Fisher itself.
    let one = [EncodedQuestion::lettered("", vec![3], &[5, 8, 13, 20], 0)];
    let j = seen(&one);
    let p: Vec<f64> = numbers_of_softmax(&floats(j.logits.clone()));
    let whole = of(&config, &one);
    let mut sum = 0.0;
    for (place, matrix) in j.matrices.iter().enumerate() {
        // The block alone: the other matrices at no Jacobian.
        let matrices = j.matrices.iter().enumerate();
        let alone = Jacobians {
            logits: j.logits.clone(),
            matrices: matrices
                .map(|(i, m)| m.clone() * f32::from(u8::from(i == place)))
                .collect(),
        };
        let found = whole.leverage(&alone)[0];
        sum += found;
        assert!((0.0..=3.0 + 1e-3).contains(&found), "{place}: {found}");
        let [_, choices, rows, columns] = matrix.dims();
        let values = floats(matrix.clone());
        let size = rows * columns;
        if size <= 256 {
            let lines: Vec<Vec<f64>> = (0..choices)
                .map(|c| {
                    values[c * size..(c + 1) * size]
                        .iter()
                        .map(|v| f64::from(*v))
                        .collect()
                })
                .collect();
            let expected = dense_leverage(&lines, &p, 1e-2);
            assert!(
                (found - expected).abs() < 1e-3 * (1.0 + expected),
                "{found} {expected}"
            );
        }
    }
    let gamma = whole.effective_parameters(whole.priors);
    assert!((sum - gamma).abs() < 1e-3 * gamma, "{sum} {gamma}");
    // Several questions of many tokens: up to the approximation.
    let rows = parity::questions();
    let found = of(&config, &rows);
    let leverage: f64 = rows
        .iter()
        .flat_map(|row| found.leverage(&seen(std::slice::from_ref(row))))
        .sum();
    let gamma = found.effective_parameters(found.priors);
    assert!(
        (0.7..1.5).contains(&(leverage / gamma)),
        "{leverage} {gamma}"
    );
}

/// The softmax of one line.
fn numbers_of_softmax(logits: &[f32]) -> Vec<f64> {
    let powers: Vec<f64> = logits.iter().map(|l| f64::from(*l).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[test]
fn the_priors_mean_is_the_adapter_that_the_training_began_with() {
    let device = Device::flex();
    let config = laplace_config(Predictive::Sampled);
    let rows = parity::questions();
    let lora = AdapterConfig::Lora(parity::lora());
    let initial = parity::load("llama", &device).attach(&lora, 1).unwrap();
    let moved = initial.clone().map_lora(|mut lora| {
        lora.lora_b = lora.lora_b.map(|b| b + 0.5);
        lora
    });
    let distances = |llama: Llama, initial: Option<&Llama>| {
        let probed = Probed::new(llama, Layers::All);
        let settings = &config.method.laplace;
        posterior(&probed, initial, settings, &context(&rows, &device))
            .unwrap()
            .squared_norms
    };
    let [a, b] = distances(moved.clone(), Some(&initial));
    let [from_zero, same_b] = distances(moved, None);
    assert!(a == 0.0 && from_zero > 1.0, "{a} {from_zero}");
    assert!(b > 0.0 && b == same_b, "{b} {same_b}");
}

#[test]
fn held_out_answers_choose_the_priors_precision() {
    let device = Device::flex();
    let rows = parity::questions();
    let loss = |config: &RunConfig| -> f64 {
        let method = registry::build(config).unwrap();
        let predictor = method
            .fit(vec![reference(&device)], &context(&rows, &device))
            .unwrap();
        let losses = rows.iter().map(|row| {
            let batch = QuestionBatcher::default().batch(vec![row.clone()], &device);
            let scored = &predictor.predict(&batch).rows(&batch).unwrap()[0];
            -scored.probabilities[scored.label].ln()
        });
        losses.sum()
    };
    let mut config = laplace_config(Predictive::Probit);
    config.method.laplace.prior_from = PriorFrom::HeldOut;
    let chosen = loss(&config);
    let probed = Probed::new(reference(&device), Layers::All);
    let settings = &config.method.laplace;
    let evidence = posterior(&probed, None, settings, &context(&rows, &device))
        .unwrap()
        .priors[0];
    let all = (-4..=12).map(|half| {
        config.method.laplace.prior_precision = Some(evidence * 10f64.powf(f64::from(half) / 2.0));
        loss(&config)
    });
    let all: Vec<f64> = all.collect();
    let best = all.iter().copied().fold(f64::INFINITY, f64::min);
    assert!((chosen - best).abs() < 1e-3 * best, "{chosen} {all:?}");
    let worst = all.iter().copied().fold(0.0, f64::max);
    assert!(worst > best + 1e-2, "{all:?}");
    // Without held-out questions there is nothing to choose on.
    config.method.laplace.prior_precision = None;
    let nothing = FitContext {
        held_out: &[],
        ..context(&rows, &device)
    };
    let method = registry::build(&config).unwrap();
    let refused = method
        .fit(vec![reference(&device)], &nothing)
        .err()
        .unwrap();
    assert!(refused.to_string().contains("prior_from"), "{refused}");
}

#[test]
fn the_last_layer_alone_has_the_jacobians_that_it_has_among_all() {
    let device = Device::flex();
    let batch = QuestionBatcher::default().batch(parity::questions(), &device);
    let of = |layers| jacobians(&Probed::new(reference(&device), layers), &batch, &device);
    let (all, last) = (of(Layers::All), of(Layers::Last));
    assert_close("logits", &floats(last.logits), &floats(all.logits), 1e-5);
    let covered = last.matrices.len();
    assert_eq!(all.matrices.len() % covered, 0);
    assert!(covered < all.matrices.len());
    let same = all.matrices.len() - covered..;
    for (alone, among) in last.matrices.into_iter().zip(all.matrices[same].to_vec()) {
        assert_close("jacobian", &floats(alone), &floats(among), 1e-5);
    }
}

#[test]
fn post_hoc_calibration_equals_scipys() {
    let expected = &expected()["posthoc"];
    let labels = numbers(&expected["labels"]);
    let flu = numbers(&expected["flu"]);
    let rows: Vec<ScoredRow> = expected["logits"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(i, logits)| {
            let logits: Vec<f64> = numbers(logits).into_iter().map(f64::from).collect();
            let sum: f64 = logits.iter().map(|l| l.exp()).sum();
            let p: Vec<f64> = logits.iter().map(|l| l.exp() / sum).collect();
            let label = labels[i] as usize;
            let mut row =
                ScoredRow::from_probabilities(i.to_string(), label, &p, Some(f64::from(flu[i])));
            row.logits = logits;
            row
        })
        .collect();
    let near = |what: &str, found: f64, value: &Value, tolerance: f64| {
        let value = value.as_f64().unwrap();
        assert!(
            (found - value).abs() < tolerance,
            "{what}: {found}, expected {value}"
        );
    };
    near(
        "temperature",
        Temperature::fit(&rows).temperature,
        &expected["temperature"],
        1e-4,
    );
    near(
        "LAC",
        Conformal::fit(&rows, Score::Lac, 0.1).threshold,
        &expected["lac"],
        1e-6,
    );
    near(
        "APS",
        Conformal::fit(&rows, Score::Aps, 0.1).threshold,
        &expected["aps"],
        1e-6,
    );
    let fitted = Confidence::fit(&rows);
    let key = format!("{:.1}", fitted.strength);
    let weights = &expected["weights"][&key];
    for (i, weight) in fitted.weights.iter().enumerate() {
        near(
            &format!("weight {i} at strength {key}"),
            *weight,
            &weights[i],
            1e-3,
        );
    }
}

/// Probabilities of a predictor on a batch.
fn probabilities(predictor: &dyn Predictor, batch: &data::Batch) -> Vec<f32> {
    let rows = predictor.predict(batch).rows(batch).unwrap();
    rows.iter()
        .flat_map(|r| {
            r.probabilities
                .iter()
                .map(|p| *p as f32)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A method on the tiny model with a LoRA that has moved.
fn fitted(config: &RunConfig, device: &Device) -> Box<dyn Predictor> {
    let method = registry::build(config).unwrap();
    let rows = questions(6);
    let llama = tiny_adapted(&method.adapter(), device);
    method.fit(vec![llama], &context(&rows, device)).unwrap()
}

fn config(method: &str) -> RunConfig {
    let mut config = RunConfig::default();
    config.method.name = method.into();
    config.method.samples = 3;
    config.adapter.rank = 3;
    config.adapter.alpha = 6.0;
    config.adapter.dropout = 0.2;
    config
}

#[test]
fn mc_dropout_averages_seeded_passes_that_differ() {
    let device = Device::flex();
    let config = config("mc_dropout");
    let batch = QuestionBatcher::default().batch(questions(4), &device);
    let found = probabilities(&*fitted(&config, &device), &batch);
    assert_eq!(found, probabilities(&*fitted(&config, &device), &batch));
    let method = registry::build(&config).unwrap();
    let llama = tiny_adapted(&method.adapter(), &device);
    let passes: Vec<Vec<f32>> = (0..3)
        .map(|s| {
            let seed = DropoutSeed::new(mix(config.train.seed, s));
            let output = llama.forward(&forward::input(&batch, seed));
            let logits = choice_logits(forward::read_logits(&output, &batch), &batch);
            floats(burn::tensor::activation::softmax(logits, 1))
        })
        .collect();
    assert_ne!(passes[0], passes[1]);
    let choices = batch.choices.dims()[1];
    let mean: Vec<f32> = (0..passes[0].len())
        .filter(|i| i % choices < batch.choices.counts[i / choices])
        .map(|i| passes.iter().map(|p| p[i]).sum::<f32>() / 3.0)
        .collect();
    assert_close("mean of passes", &found, &mean, 1e-5);
    let mut dry = config.clone();
    dry.adapter.dropout = 0.0;
    let method = registry::build(&dry).unwrap();
    let refused = method.fit(vec![llama], &context(&questions(1), &device));
    assert!(refused.is_err_and(|e| e.to_string().contains("dropout above 0")));
}

#[test]
fn tfb_without_noise_is_the_lora_and_with_noise_keeps_its_bound() {
    let device = Device::flex();
    let batch = QuestionBatcher::default().batch(questions(6), &device);
    let plain = probabilities(&*fitted(&config("lora"), &device), &batch);
    let mut tfb = config("tfb");
    tfb.method.tfb.min_sigma = 1e-10;
    tfb.method.tfb.max_sigma = 1e-9;
    assert_close(
        "no noise",
        &probabilities(&*fitted(&tfb, &device), &batch),
        &plain,
        1e-4,
    );
    // No rise of the loss allowed, and more noise than any answer bears: almost nothing is left of
    // it.
    tfb.method.tfb.max_sigma = 1e3;
    tfb.method.tfb.tolerance = 1e-3;
    tfb.method.tfb.trials = 30;
    let bounded = probabilities(&*fitted(&tfb, &device), &batch);
    assert_close("bounded noise", &bounded, &plain, 0.1);
    tfb.method.tfb.tolerance = 1e6;
    let unbounded = probabilities(&*fitted(&tfb, &device), &batch);
    let moved = unbounded.iter().zip(&plain).map(|(a, b)| (a - b).abs());
    assert!(moved.fold(0.0, f32::max) > 0.1, "{unbounded:?} {plain:?}");
}

#[test]
fn blobs_gradient_follows_the_finite_difference_and_its_mean_weights_are_a_lora() {
    let device = Device::flex();
    let mut config = config("blob");
    config.adapter.dropout = 0.0;
    config.method.blob.posterior_std = 0.6;
    let method = registry::build(&config).unwrap();
    let llama = tiny_adapted(&method.adapter(), &device);
    let seed = DropoutSeed::new(11);
    let rows = questions(4);
    let loss = |llama: &Llama| -> f64 {
        let batch = QuestionBatcher::default().batch(rows.clone(), &device);
        let output = llama.forward(&forward::input(&batch, seed));
        method
            .objective(&method.read(output, &batch), &batch)
            .total()
            .into_scalar::<f64>()
    };
    let trained = Trainee::new(llama.clone(), method.clone(), &config.train, 4);
    let trained = burn::module::Module::train(trained);
    let batch = QuestionBatcher::default().batch(rows.clone(), &device.clone().autodiff());
    let (_, objective) = trained.objective(&batch, seed);
    let gradients = GradientsParams::from_grads(objective.total().backward(), &trained);
    let named = named_gradients(&trained.llama, &gradients);
    let gradient = &named["layers.0.mlp.up_proj.lora_g"];
    let largest = (0..gradient.len())
        .max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs()))
        .unwrap();
    let moved = |step: f32| -> f64 {
        let mut place = 0;
        loss(&llama.clone().map_lora(|mut lora| {
            // up_proj is the sixth of the first layer.
            if place == 5 {
                let g = lora.lora_g.take().unwrap();
                lora.lora_g = Some(g.map(|g| {
                    let (shape, mut values) = (g.dims(), floats(g.clone()));
                    values[largest] += step;
                    Tensor::from_data(TensorData::new(values, shape), &g.device())
                }));
            }
            place += 1;
            lora
        }))
    };
    let step = 1e-2;
    let slope = (moved(step) - moved(-step)) / f64::from(2.0 * step);
    let found = f64::from(gradient[largest]);
    assert!(
        (found - slope).abs() < 0.03 * slope.abs().max(1e-3),
        "{found} {slope}"
    );
    config.method.samples = 0;
    let batch = QuestionBatcher::default().batch(rows.clone(), &device);
    let mean = probabilities(&*fitted(&config, &device), &batch);
    config.method.samples = 2;
    assert_ne!(mean, probabilities(&*fitted(&config, &device), &batch));
}
