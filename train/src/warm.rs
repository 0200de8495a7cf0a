//! Compiling and tuning ahead: the passes of a training and of its scoring, once for each length of
//! rows that they may have.

use burn::data::dataloader::batcher::Batcher;
use burn::optim::ModuleOptimizer;
use burn::prelude::*;
use burn::train::{InferenceStep, TrainStep};
use data::padding::Padding;
use data::rendering::Scoring;
use data::{BatchOptions, Continuation, EncodedQuestion, QuestionBatcher};
use model::{AdapterConfig, ModelConfig};

use crate::config::RunConfig;
use crate::error::TrainError;
use crate::loss::cross_entropy::CrossEntropy;
use crate::optimizer::OnePassAdamW;
use crate::pace::{first_layers, made_up};
use crate::passes;
use crate::registry;
use crate::step::Trainee;

/// Layers of the model that is run: what crosses from one to the next is among it.
const LAYERS: usize = 2;

/// The lengths of rows on a grid, up to that of rows of so many tokens.
pub fn lengths(longest: usize, device: &Device) -> Vec<usize> {
    let next = |length: &usize| Some(Padding::Grid.padded(length + 1, device));
    let last = Padding::Grid.padded(longest.max(1), device);
    std::iter::successors(Some(Padding::Grid.padded(1, device)), next)
        .take_while(|length| *length <= last)
        .collect()
}

/// Runs a model's first layers, with weights that are made up, through a training step and a
/// scoring of each of these lengths. `each` hears the length that comes next.
///
/// # Errors
/// Settings that no method takes, or an adapter that these layers cannot have.
pub fn warm(
    config: &RunConfig,
    shape: &ModelConfig,
    lengths: &[usize],
    device: &Device,
    mut each: impl FnMut(usize),
) -> Result<(), TrainError> {
    let method = registry::build(config)?;
    let adapter = method.adapter();
    let whole = shape.base_parameters();
    let shape = first_layers(shape, LAYERS);
    // What a run will have loaded before it asks.
    let to_come = (whole - shape.base_parameters()) * config.model.dtype.bytes();
    let longest = lengths.iter().max().map_or(1, |length| length + 1);
    let llama = made_up(config, &shape, &adapter, longest, device)?;
    let schedule = config.train.schedule();
    let mut trainee = Trainee::new(llama, method, &config.train, schedule.batch_size).train();
    let mut optimizer = ModuleOptimizer::from(OnePassAdamW::new(config.train.weight_decay));
    let batcher = QuestionBatcher {
        options: BatchOptions {
            sequence_targets: config.objective.cross_entropy == CrossEntropy::Sequence,
            padding: config.train.padding,
            ..BatchOptions::default()
        },
    };
    let asked = passes::asked(config.evaluation.batch_tokens, device, to_come as u64);
    for &length in lengths {
        each(length);
        let questions = |most: usize| -> Vec<EncodedQuestion> {
            let rows = 0..(most / length).max(1);
            rows.map(|row| question(config, row, length, shape.vocab_size))
                .collect()
        };
        if adapter != AdapterConfig::None {
            let mut taken = questions(schedule.micro_tokens);
            taken.truncate(schedule.micro_batch);
            let batch = batcher.batch(taken, &device.clone().autodiff());
            let step = TrainStep::step(&trainee, batch);
            trainee = trainee.optimize(&mut optimizer, 1e-4.into(), step.grads);
            step.item.facts();
        }
        let batch = batcher.batch(questions(asked), device);
        InferenceStep::step(&trainee.clone().valid(), batch).facts();
    }
    Ok(())
}

/// A question that takes so many tokens.
fn question(config: &RunConfig, row: usize, length: usize, vocabulary: usize) -> EncodedQuestion {
    let word = |at: usize| ((row + 7 * at) % vocabulary) as u32;
    let id = format!("made-up-{row}");
    let appended = usize::from(config.objective.cross_entropy == CrossEntropy::Sequence);
    match config.data.scoring {
        Scoring::Letters => {
            let prompt = (0..(length - appended).max(1)).map(word);
            EncodedQuestion::lettered(&id, prompt.collect(), &[1, 2, 3, 4], row % 4)
        }
        Scoring::Cloze => {
            // Four choices of two tokens, of which one each is computed.
            let prompt = (0..length.saturating_sub(4).max(1)).map(word).collect();
            let mut question = EncodedQuestion::lettered(&id, prompt, &[1, 2, 3, 4], row % 4);
            for choice in &mut question.choices {
                *choice = Continuation {
                    tokens: vec![choice.tokens[0], 5],
                    weight: 0.5,
                };
            }
            question
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_of_the_grid_is_trained_and_asked_once() {
        let device = Device::flex();
        assert_eq!(lengths(40, &device), [16, 32, 48]);
        assert_eq!(lengths(0, &device), [16]);
        assert_eq!(lengths(300, &device).last(), Some(&320));
        let shape = model::load::tiny::config(300);
        for (method, scoring) in [("base", "letters"), ("lora", "cloze"), ("uq4ct", "letters")] {
            let mut layers = crate::config::ConfigLayers::default();
            layers.method(method).unwrap();
            layers.set(&format!("data.scoring={scoring}")).unwrap();
            let config = layers.resolve().unwrap();
            let mut seen = Vec::new();
            warm(&config, &shape, &[16, 32], &device, |length| {
                seen.push(length)
            })
            .unwrap();
            assert_eq!(seen, [16, 32], "{method}");
        }
    }
}
