//! Questions as tensors.

use burn::data::dataloader::batcher::Batcher;
use burn::prelude::*;

use crate::tokenizer::EncodedQuestion;

/// What a batch carries beside the prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchOptions {
    /// Append each answer's token to its prompt and list every next token: for a loss over the whole sequence.
    pub sequence_targets: bool,
    /// Pad on the left, as some public code does; the numbers must not change.
    pub pad_left: bool,
}

/// Questions as tensors, padded to the longest; padding is segment 0.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token ids, `[batch, sequence]`.
    pub tokens: Tensor<2, Int>,
    /// Rotary positions, `[batch, sequence]`.
    pub positions: Tensor<2, Int>,
    /// 0 for padding, 1 for tokens, `[batch, sequence]`.
    pub segments: Tensor<2, Int>,
    /// Flat index of each question's last prompt token, `[batch]`.
    pub scored: Tensor<1, Int>,
    /// Weight of each flat token in its question's mean over the prompt, `[batch, batch * sequence]`; rows sum to 1.
    pub prompt_mean: Tensor<2>,
    /// Weight of each flat token in the mean over all tokens that are not padding, `[1, batch * sequence]`; sums to 1.
    pub token_mean: Tensor<2>,
    /// Token of each choice, `[batch, choices]`; missing choices repeat the first.
    pub labels: Tensor<2, Int>,
    /// True where a row has fewer choices, `[batch, choices]`.
    pub no_choice: Tensor<2, Bool>,
    /// Index of the right choice, `[batch]`.
    pub answers: Tensor<1, Int>,
    /// Token of the right choice, `[batch]`.
    pub answer_tokens: Tensor<1, Int>,
    /// Every next token, if asked for.
    pub next: Option<NextTokens>,
    /// The rows' names.
    pub ids: Vec<String>,
    /// Choices of each row.
    pub choices: Vec<usize>,
    /// Seeds what is random in this step.
    pub seed: u64,
    /// The optimizer step it belongs to, from 1; 0 outside training.
    pub step: usize,
    /// This batch's share of its optimizer step, by questions; 1 without accumulation.
    pub share: f64,
    /// Tokens that are not padding.
    pub real_tokens: usize,
}

/// Targets of a loss over the whole sequence.
#[derive(Debug, Clone)]
pub struct NextTokens {
    /// Flat index of each predicting token, `[targets]`.
    pub at: Tensor<1, Int>,
    /// The token that follows, `[targets]`.
    pub target: Tensor<1, Int>,
    /// Each target's weight: 1 / (targets of its question * batch), so that every question counts alike. `[targets]`
    pub weight: Tensor<1>,
}

impl Batch {
    /// Questions in it.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Tokens computed, padding included.
    pub fn computed_tokens(&self) -> usize {
        self.tokens.shape().num_elements()
    }

    /// The same batch on another device.
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            tokens: self.tokens.to_device(device),
            positions: self.positions.to_device(device),
            segments: self.segments.to_device(device),
            scored: self.scored.to_device(device),
            prompt_mean: self.prompt_mean.to_device(device),
            token_mean: self.token_mean.to_device(device),
            labels: self.labels.to_device(device),
            no_choice: self.no_choice.to_device(device),
            answers: self.answers.to_device(device),
            answer_tokens: self.answer_tokens.to_device(device),
            next: self.next.map(|next| NextTokens {
                at: next.at.to_device(device),
                target: next.target.to_device(device),
                weight: next.weight.to_device(device),
            }),
            ..self
        }
    }
}

/// Turns questions into a [`Batch`]; burn's `Batcher`.
#[derive(Debug, Clone, Copy, Default)]
pub struct QuestionBatcher {
    /// What the batch carries.
    pub options: BatchOptions,
}

impl Batcher<EncodedQuestion, Batch> for QuestionBatcher {
    fn batch(&self, items: Vec<EncodedQuestion>, device: &Device) -> Batch {
        let appended = usize::from(self.options.sequence_targets);
        let lengths: Vec<usize> = items.iter().map(|q| q.prompt.len() + appended).collect();
        let sequence = lengths.iter().copied().max().unwrap_or(1);
        let rows = items.len();
        let real_tokens: usize = lengths.iter().sum();
        let mut grid = Grid::new(rows, sequence);
        for (row, (question, length)) in items.iter().zip(&lengths).enumerate() {
            let start = match self.options.pad_left {
                true => sequence - length,
                false => 0,
            };
            grid.place(row, start, question, appended == 1, real_tokens);
        }
        let int = |values: Vec<i32>, shape: [usize; 2]| {
            Tensor::<2, Int>::from_data(TensorData::new(values, shape), device)
        };
        let line = |values: Vec<i32>| {
            let n = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [n]), device)
        };
        let most = items.iter().map(|q| q.labels.len()).max().unwrap_or(1);
        let pad = |q: &EncodedQuestion| {
            let first = q.labels[0];
            (0..most)
                .map(|c| q.labels.get(c).copied().unwrap_or(first) as i32)
                .collect::<Vec<_>>()
        };
        let missing: Vec<bool> = items
            .iter()
            .flat_map(|q| (0..most).map(|c| c >= q.labels.len()).collect::<Vec<_>>())
            .collect();
        let float = |values: Vec<f32>, shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values, shape), device)
        };
        Batch {
            tokens: int(grid.tokens, [rows, sequence]),
            positions: int(grid.positions, [rows, sequence]),
            segments: int(grid.segments, [rows, sequence]),
            scored: line(grid.scored),
            prompt_mean: float(grid.prompt_mean, [rows, rows * sequence]),
            token_mean: float(grid.token_mean, [1, rows * sequence]),
            labels: int(items.iter().flat_map(pad).collect(), [rows, most]),
            no_choice: Tensor::from_data(TensorData::new(missing, [rows, most]), device),
            answers: line(items.iter().map(|q| q.answer as i32).collect()),
            answer_tokens: line(items.iter().map(|q| q.labels[q.answer] as i32).collect()),
            next: self.options.sequence_targets.then(|| {
                let n = grid.next_weight.len();
                NextTokens {
                    at: line(grid.next_at),
                    target: line(grid.next_target),
                    weight: Tensor::from_data(TensorData::new(grid.next_weight, [n]), device),
                }
            }),
            choices: items.iter().map(|q| q.labels.len()).collect(),
            ids: items.into_iter().map(|q| q.id).collect(),
            seed: 0,
            step: 0,
            share: 1.0,
            real_tokens,
        }
    }
}

/// The host side of a batch while it is filled.
struct Grid {
    rows: usize,
    sequence: usize,
    tokens: Vec<i32>,
    positions: Vec<i32>,
    segments: Vec<i32>,
    scored: Vec<i32>,
    prompt_mean: Vec<f32>,
    token_mean: Vec<f32>,
    next_at: Vec<i32>,
    next_target: Vec<i32>,
    next_weight: Vec<f32>,
}

impl Grid {
    fn new(rows: usize, sequence: usize) -> Self {
        let flat = rows * sequence;
        Self {
            rows,
            sequence,
            tokens: vec![0; flat],
            positions: vec![0; flat],
            segments: vec![0; flat],
            scored: Vec::with_capacity(rows),
            prompt_mean: vec![0.0; rows * flat],
            token_mean: vec![0.0; flat],
            next_at: vec![],
            next_target: vec![],
            next_weight: vec![],
        }
    }

    fn place(
        &mut self,
        row: usize,
        start: usize,
        question: &EncodedQuestion,
        append: bool,
        real_tokens: usize,
    ) {
        let prompt = question.prompt.len();
        let answer = append.then(|| question.labels[question.answer]);
        let ids: Vec<u32> = question.prompt.iter().copied().chain(answer).collect();
        let first = row * self.sequence + start;
        for (position, id) in ids.iter().enumerate() {
            let at = first + position;
            self.tokens[at] = *id as i32;
            self.positions[at] = position as i32;
            self.segments[at] = 1;
            self.token_mean[at] = 1.0 / real_tokens as f32;
            if position < prompt {
                self.prompt_mean[row * self.rows * self.sequence + at] = 1.0 / prompt as f32;
            }
        }
        self.scored.push((first + prompt - 1) as i32);
        if append {
            let targets = ids.len() - 1;
            for position in 0..targets {
                self.next_at.push((first + position) as i32);
                self.next_target.push(ids[position + 1] as i32);
                self.next_weight.push(1.0 / (targets * self.rows) as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(prompt: &[u32], labels: &[u32], answer: usize) -> EncodedQuestion {
        EncodedQuestion {
            id: format!("{prompt:?}"),
            prompt: prompt.to_vec(),
            labels: labels.to_vec(),
            answer,
            shortened: false,
        }
    }

    fn ints<const D: usize>(t: Tensor<D, Int>) -> Vec<i64> {
        t.into_data().try_into_vec_as().unwrap()
    }

    #[test]
    fn a_batch_is_laid_out_as_documented() {
        let items = vec![
            question(&[5, 6, 7], &[1, 2], 1),
            question(&[8], &[3, 4, 9], 0),
        ];
        let batch = QuestionBatcher::default().batch(items.clone(), &Device::flex());
        assert_eq!(ints(batch.tokens), [5, 6, 7, 8, 0, 0]);
        assert_eq!(ints(batch.segments), [1, 1, 1, 1, 0, 0]);
        assert_eq!(ints(batch.scored), [2, 3]);
        assert_eq!(ints(batch.labels), [1, 2, 1, 3, 4, 9]);
        assert_eq!(ints(batch.answer_tokens), [2, 3]);
        let missing: Vec<bool> = batch.no_choice.into_data().try_into_vec_as().unwrap();
        assert_eq!(missing, [false, false, true, false, false, false]);
        let mean: Vec<f32> = batch.prompt_mean.into_data().try_into_vec_as().unwrap();
        let third = 1.0 / 3.0;
        assert_eq!(mean[..6], [third, third, third, 0., 0., 0.]);
        assert_eq!(mean[6..], [0., 0., 0., 1., 0., 0.]);
        let options = BatchOptions {
            pad_left: true,
            sequence_targets: true,
        };
        let batch = QuestionBatcher { options }.batch(items, &Device::flex());
        assert_eq!(ints(batch.tokens), [5, 6, 7, 2, 0, 0, 8, 3]);
        assert_eq!(ints(batch.positions), [0, 1, 2, 3, 0, 0, 0, 1]);
        assert_eq!(ints(batch.scored), [2, 6]);
        let next = batch.next.unwrap();
        assert_eq!(ints(next.at), [0, 1, 2, 6]);
        assert_eq!(ints(next.target), [6, 7, 2, 3]);
        let weight: Vec<f32> = next.weight.into_data().try_into_vec_as().unwrap();
        assert!((weight.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
