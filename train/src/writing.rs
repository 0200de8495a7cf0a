//! Answers in the model's own words: greedy decoding, token by token, to the end of the line.
//!
//! The paper leaves open how open-ended questions are answered, so the protocol is ours. The answer
//! is what follows the prompt up to an end of line after words, a special token or a limit. Every
//! token is the most probable one, by the mean over the method's samples. FLU is taken over the
//! prompt, before anything is written.

use burn::prelude::*;
use burn::tensor::activation::softmax;
use data::{Batch, Tokenizer};
use model::{KeyValueCache, LlamaInput};

use crate::error::TrainError;
use crate::forward::{input, read_logits};
use crate::functional_uncertainty::{FluTokens, functional_uncertainty};
use crate::linear_algebra::{integers, values};
use crate::method::Sample;
use crate::prediction::Written;

/// An answer and the FLU of its question.
pub type WrittenAnswer = (Written, Option<f64>);

/// A sample with its cache of keys and values.
struct Writer<'a> {
    sample: Sample<'a>,
    cache: KeyValueCache,
}

/// An answer that is being written.
#[derive(Default)]
struct Draft {
    tokens: Vec<u32>,
    text: String,
    log_probabilities: Vec<f64>,
    ended: bool,
}

/// Writes an answer to each question of a batch of prompts, of `longest` tokens at most.
///
/// # Errors
/// Without samples, or a probability that is no number.
pub fn write(
    samples: Vec<Sample<'_>>,
    batch: &Batch,
    flu_tokens: FluTokens,
    tokenizer: &Tokenizer,
    longest: usize,
) -> Result<Vec<WrittenAnswer>, TrainError> {
    if samples.is_empty() {
        let reason = "this method chooses among answers, it cannot write one: use another for open-ended questions";
        return Err(TrainError::config("method.name", reason));
    }
    let mut writers: Vec<Writer> = samples
        .into_iter()
        .map(|sample| Writer {
            sample,
            cache: KeyValueCache::default(),
        })
        .collect();
    let (mut probabilities, flu) = read(&mut writers, batch, flu_tokens);
    let mut drafts: Vec<Draft> = batch.ids.iter().map(|_| Draft::default()).collect();
    // Rows still being written, and the position after each one's last token.
    let mut rows: Vec<usize> = (0..drafts.len()).collect();
    let last: Vec<i64> = integers(
        batch
            .input
            .positions
            .clone()
            .reshape([-1])
            .select(0, batch.choices.prompt_ends.clone()),
    );
    for written in 0..longest {
        let (best, probability) = best(probabilities.clone());
        for ((row, token), p) in rows.iter().zip(&best).zip(probability) {
            let draft = &mut drafts[*row];
            if draft.ended {
                continue;
            }
            if !p.is_finite() {
                return Err(TrainError::not_finite(&batch.ids[*row]));
            }
            draft.log_probabilities.push(p.max(1e-12).ln());
            draft.tokens.push(*token as u32);
            (draft.text, draft.ended) = tokenizer.written(&draft.tokens)?;
        }
        let open: Vec<usize> = (0..rows.len())
            .filter(|place| !drafts[rows[*place]].ended)
            .collect();
        if open.is_empty() || written + 1 == longest {
            break;
        }
        let mut tokens = best;
        // Carrying a few finished rows along is cheaper than copying the caches.
        if open.len() * 2 <= rows.len() {
            let kept = line(&open, batch);
            writers.iter_mut().for_each(|w| w.cache.select(&kept));
            tokens = open.iter().map(|place| tokens[*place]).collect();
            rows = open.iter().map(|place| rows[*place]).collect();
        }
        let positions = rows.iter().map(|row| last[*row] + 1 + written as i64);
        probabilities = step(&mut writers, &tokens, positions.collect(), batch);
    }
    Ok(drafts
        .into_iter()
        .enumerate()
        .map(|(row, draft)| {
            let written = Written {
                text: draft.text,
                log_probabilities: draft.log_probabilities,
            };
            (written, flu.as_ref().map(|flu| flu[row]))
        })
        .collect())
}

/// Reads the prompts. Gives the probabilities of the next token, `[batch, vocabulary]`, and FLU.
fn read(
    writers: &mut [Writer],
    batch: &Batch,
    flu_tokens: FluTokens,
) -> (Tensor<2>, Option<Vec<f64>>) {
    let mut flu: Vec<Tensor<2>> = Vec::new();
    let mean = mean(writers, |writer| {
        let (llama, seed) = writer.sample;
        let output = llama.forward_with_cache(&input(batch, seed), &mut writer.cache);
        if !output.routing.is_empty() {
            let weights = flu_tokens.weights(batch, || batch.answers.index.clone());
            let found = functional_uncertainty(&output.routing, &weights);
            flu.push(found.unsqueeze_dim(0));
        }
        read_logits(&output, batch)
    });
    let flu = (!flu.is_empty()).then(|| values(Tensor::cat(flu, 0).mean_dim(0)));
    (mean, flu)
}

/// Reads one more token of each row. Gives the probabilities of the next.
fn step(writers: &mut [Writer], tokens: &[i64], positions: Vec<i64>, batch: &Batch) -> Tensor<2> {
    let rows = tokens.len();
    let column = |values: Vec<i64>| line_of(values, batch).reshape([rows, 1]);
    let ones = column(vec![1; rows]);
    mean(writers, |writer| {
        let (llama, dropout) = writer.sample;
        let input = LlamaInput {
            tokens: column(tokens.to_vec()),
            positions: column(positions.clone()),
            segments: ones.clone(),
            branches: ones.zeros_like(),
            scored: line_of((0..rows as i64).collect(), batch),
            dropout,
            probe: None,
            routers_apart: false,
        };
        let cache = &mut writer.cache;
        llama.forward_with_cache(&input, cache).logits
    })
}

/// Mean of the samples' probabilities of the next token.
fn mean<'a>(
    writers: &mut [Writer<'a>],
    mut logits: impl FnMut(&mut Writer<'a>) -> Tensor<2>,
) -> Tensor<2> {
    let count = writers.len();
    let sum = writers
        .iter_mut()
        .map(|writer| softmax(logits(writer), 1))
        .reduce(|sum, other| sum + other);
    sum.expect("at least one sample") / count as f64
}

/// The most probable token of each row and its probability.
fn best(probabilities: Tensor<2>) -> (Vec<i64>, Vec<f64>) {
    let (probability, token) = probabilities.max_dim_with_indices(1);
    (integers(token.squeeze_dim::<1>(1)), values(probability))
}

fn line(places: &[usize], batch: &Batch) -> Tensor<1, Int> {
    line_of(places.iter().map(|place| *place as i64).collect(), batch)
}

fn line_of(values: Vec<i64>, batch: &Batch) -> Tensor<1, Int> {
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), &batch.device())
}
