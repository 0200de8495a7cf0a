//! Questions as tensors.

use burn::data::dataloader::batcher::Batcher;
use burn::prelude::*;

use crate::tokenizer::{Continuation, EncodedQuestion};

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
    /// 0 for the prompt, c + 1 for the text of choice c, `[batch, sequence]`.
    pub branches: Tensor<2, Int>,
    /// Flat index of each question's last prompt token, `[batch]`.
    pub scored: Tensor<1, Int>,
    /// Weight of each flat token in its question's mean over the prompt, `[batch, batch * sequence]`; rows sum to 1.
    pub prompt_mean: Tensor<2>,
    /// Weight of each flat token in the mean over all tokens that are not padding, `[1, batch * sequence]`; sums to 1.
    pub token_mean: Tensor<2>,
    /// Flat index of every token after which a choice is read: `scored` first, then those inside the choices. `[reads]`
    pub read: Tensor<1, Int>,
    /// First token of each choice, `[batch, choices]`; missing choices repeat the first.
    pub labels: Tensor<2, Int>,
    /// The tokens of choices that have more than one, if any has.
    pub continuations: Option<Continuations>,
    /// Weight of each flat token in the mean over each choice's own tokens, where choices are whole: `[batch * choices, batch * sequence]`;
    /// rows sum to 1, missing choices to 0.
    pub choice_mean: Option<Tensor<2>>,
    /// True where a row has fewer choices, `[batch, choices]`.
    pub no_choice: Tensor<2, Bool>,
    /// Index of the right choice, `[batch]`.
    pub answers: Tensor<1, Int>,
    /// First token of the right choice, `[batch]`.
    pub answer_tokens: Tensor<1, Int>,
    /// Every next token, if asked for.
    pub next: Option<NextTokens>,
    /// The model writes the answers itself: each row's one choice is the right one, and to be right means that every token of it is
    /// the most probable.
    pub written: bool,
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

/// The choices of a batch as texts: every token of every choice is a target.
#[derive(Debug, Clone)]
pub struct Continuations {
    /// Index into `read` of the token that predicts it, `[targets]`.
    pub row: Tensor<1, Int>,
    /// The token, `[targets]`.
    pub token: Tensor<1, Int>,
    /// Weight of each target in each choice's score, `[batch * choices, targets]`.
    pub pool: Tensor<2>,
    /// Weight of each target in the mean over the right choice's tokens, `[batch, targets]`; rows sum to 1.
    pub answer: Tensor<2>,
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
            branches: self.branches.to_device(device),
            scored: self.scored.to_device(device),
            read: self.read.to_device(device),
            continuations: self.continuations.map(|c| Continuations {
                row: c.row.to_device(device),
                token: c.token.to_device(device),
                pool: c.pool.to_device(device),
                answer: c.answer.to_device(device),
            }),
            choice_mean: self.choice_mean.map(|mean| mean.to_device(device)),
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
        let most = items.iter().map(|q| q.choices.len()).max().unwrap_or(1);
        let cloze = items.iter().any(|q| {
            let several = |c: &Continuation| c.tokens.len() > 1 || c.weight != 1.0;
            q.open.is_some() || q.choices.iter().any(several)
        });
        let whole = items.iter().any(|q| q.whole_choices);
        // A label is appended to its prompt; a text stands in the batch anyway.
        let append = self.options.sequence_targets && !cloze && !whole;
        let lengths: Vec<usize> = items
            .iter()
            .map(|q| q.length() + usize::from(append))
            .collect();
        let sequence = lengths.iter().copied().max().unwrap_or(1);
        let rows = items.len();
        let real_tokens: usize = lengths.iter().sum();
        let mut grid = Grid::new(rows, sequence);
        if whole {
            grid.choice_mean = vec![0.0; rows * most * rows * sequence];
        }
        for (row, (question, length)) in items.iter().zip(&lengths).enumerate() {
            let start = match self.options.pad_left {
                true => sequence - length,
                false => 0,
            };
            grid.place(row, start, question, append);
            if whole {
                grid.choice_mean(row, start, question, most);
            }
            grid.token_mean(row, start, *length, real_tokens);
            if self.options.sequence_targets {
                grid.next_tokens(row, start, question);
            }
        }
        let targets = cloze.then(|| Targets::of(&items, most));
        let int = |values: Vec<i32>, shape: [usize; 2]| {
            Tensor::<2, Int>::from_data(TensorData::new(values, shape), device)
        };
        let line = |values: Vec<i32>| {
            let n = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [n]), device)
        };
        let pad = |q: &EncodedQuestion| {
            (0..most)
                .map(|c| q.choices.get(c).unwrap_or(&q.choices[0]).tokens[0] as i32)
                .collect::<Vec<_>>()
        };
        let missing: Vec<bool> = items
            .iter()
            .flat_map(|q| (0..most).map(|c| c >= q.choices.len()).collect::<Vec<_>>())
            .collect();
        let float = |values: Vec<f32>, shape: [usize; 2]| {
            Tensor::<2>::from_data(TensorData::new(values, shape), device)
        };
        Batch {
            tokens: int(grid.tokens, [rows, sequence]),
            positions: int(grid.positions, [rows, sequence]),
            segments: int(grid.segments, [rows, sequence]),
            branches: int(grid.branches, [rows, sequence]),
            read: line([grid.scored.clone(), grid.inside].concat()),
            scored: line(grid.scored),
            continuations: targets.map(|t| {
                let n = t.token.len();
                Continuations {
                    row: line(t.row),
                    token: line(t.token),
                    pool: float(t.pool, [rows * most, n]),
                    answer: float(t.answer, [rows, n]),
                }
            }),
            choice_mean: whole.then(|| float(grid.choice_mean, [rows * most, rows * sequence])),
            prompt_mean: float(grid.prompt_mean, [rows, rows * sequence]),
            token_mean: float(grid.token_mean, [1, rows * sequence]),
            labels: int(items.iter().flat_map(pad).collect(), [rows, most]),
            no_choice: Tensor::from_data(TensorData::new(missing, [rows, most]), device),
            answers: line(items.iter().map(|q| q.answer as i32).collect()),
            answer_tokens: line(
                items
                    .iter()
                    .map(|q| q.choices[q.answer].tokens[0] as i32)
                    .collect(),
            ),
            next: self.options.sequence_targets.then(|| {
                let n = grid.next_weight.len();
                NextTokens {
                    at: line(grid.next_at),
                    target: line(grid.next_target),
                    weight: Tensor::from_data(TensorData::new(grid.next_weight, [n]), device),
                }
            }),
            choices: items.iter().map(|q| q.choices.len()).collect(),
            written: items.iter().any(|q| q.open.is_some()),
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
    branches: Vec<i32>,
    scored: Vec<i32>,
    /// Tokens inside the choices, in the order of the questions and their choices.
    inside: Vec<i32>,
    choice_mean: Vec<f32>,
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
            branches: vec![0; flat],
            scored: Vec::with_capacity(rows),
            inside: vec![],
            choice_mean: vec![],
            prompt_mean: vec![0.0; rows * flat],
            token_mean: vec![0.0; flat],
            next_at: vec![],
            next_target: vec![],
            next_weight: vec![],
        }
    }

    /// The prompt, then of every choice the tokens that are computed, each at the positions after the prompt.
    fn place(&mut self, row: usize, start: usize, question: &EncodedQuestion, append: bool) {
        let prompt = question.prompt.len();
        let first = row * self.sequence + start;
        for (position, id) in question.prompt.iter().enumerate() {
            self.put(first + position, *id, position, 0);
            self.prompt_mean[row * self.rows * self.sequence + first + position] =
                1.0 / prompt as f32;
        }
        self.scored.push((first + prompt - 1) as i32);
        let mut at = first + prompt;
        if append {
            self.put(at, question.choices[question.answer].tokens[0], prompt, 0);
        }
        for (choice, continuation) in question.choices.iter().enumerate() {
            for (offset, id) in question.computed(continuation).iter().enumerate() {
                self.put(at, *id, prompt + offset, choice + 1);
                // Nothing is read after the last token.
                if offset + 1 < continuation.tokens.len() {
                    self.inside.push(at as i32);
                }
                at += 1;
            }
        }
    }

    fn put(&mut self, at: usize, id: u32, position: usize, branch: usize) {
        self.tokens[at] = id as i32;
        self.positions[at] = position as i32;
        self.segments[at] = 1;
        self.branches[at] = branch as i32;
    }

    fn choice_mean(&mut self, row: usize, start: usize, question: &EncodedQuestion, most: usize) {
        let flat = self.rows * self.sequence;
        let mut at = row * self.sequence + start + question.prompt.len();
        for (choice, continuation) in question.choices.iter().enumerate() {
            let length = question.computed(continuation).len();
            let own = (row * most + choice) * flat + at;
            self.choice_mean[own..own + length].fill(1.0 / length as f32);
            at += length;
        }
    }

    fn token_mean(&mut self, row: usize, start: usize, length: usize, real_tokens: usize) {
        let first = row * self.sequence + start;
        self.token_mean[first..first + length].fill(1.0 / real_tokens as f32);
    }

    /// Every next token of the prompt and of the right choice.
    fn next_tokens(&mut self, row: usize, start: usize, question: &EncodedQuestion) {
        let prompt = question.prompt.len();
        let first = row * self.sequence + start;
        let before = question.choices[..question.answer].iter();
        let computed = before.map(|c| question.computed(c).len());
        let branch = first + prompt + computed.sum::<usize>();
        let answer = &question.choices[question.answer].tokens;
        let mut pairs: Vec<(usize, u32)> = Vec::new();
        for (position, id) in question.prompt.iter().enumerate().skip(1) {
            pairs.push((first + position - 1, *id));
        }
        pairs.push((first + prompt - 1, answer[0]));
        for (offset, id) in answer[1..].iter().enumerate() {
            pairs.push((branch + offset, *id));
        }
        let weight = 1.0 / (pairs.len() * self.rows) as f32;
        for (at, id) in pairs {
            self.next_at.push(at as i32);
            self.next_target.push(id as i32);
            self.next_weight.push(weight);
        }
    }
}

/// The host side of [`Continuations`].
struct Targets {
    row: Vec<i32>,
    token: Vec<i32>,
    pool: Vec<f32>,
    answer: Vec<f32>,
}

impl Targets {
    fn of(items: &[EncodedQuestion], most: usize) -> Self {
        let rows = items.len();
        let choices = |q: &EncodedQuestion| q.choices.iter().map(|c| c.tokens.len()).sum::<usize>();
        let n: usize = items.iter().map(choices).sum();
        let mut targets = Self {
            row: Vec::with_capacity(n),
            token: Vec::with_capacity(n),
            pool: vec![0.0; rows * most * n],
            answer: vec![0.0; rows * n],
        };
        let mut inside = rows;
        for (row, question) in items.iter().enumerate() {
            for (choice, continuation) in question.choices.iter().enumerate() {
                let count = continuation.tokens.len();
                for (offset, id) in continuation.tokens.iter().enumerate() {
                    let target = targets.token.len();
                    targets.token.push(*id as i32);
                    // The first token is read after the prompt, every other after the one before it.
                    targets.row.push(match offset {
                        0 => row as i32,
                        _ => (inside + offset - 1) as i32,
                    });
                    targets.pool[(row * most + choice) * n + target] = continuation.weight;
                    if choice == question.answer {
                        targets.answer[row * n + target] = 1.0 / count as f32;
                    }
                }
                inside += count - 1;
            }
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(prompt: &[u32], labels: &[u32], answer: usize) -> EncodedQuestion {
        EncodedQuestion::lettered(&format!("{prompt:?}"), prompt.to_vec(), labels, answer)
    }

    /// Two questions whose choices are texts of one to three tokens.
    fn cloze() -> Vec<EncodedQuestion> {
        let choice = |tokens: &[u32]| Continuation {
            tokens: tokens.to_vec(),
            weight: 1.0 / tokens.len() as f32,
        };
        let mut first = question(&[5, 6], &[0], 1);
        first.choices = vec![choice(&[1, 2, 3]), choice(&[4, 7])];
        let mut second = question(&[8], &[0], 0);
        second.choices = vec![choice(&[9])];
        vec![first, second]
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

    #[test]
    fn a_cloze_batch_is_laid_out_as_documented() {
        let options = BatchOptions {
            sequence_targets: true,
            pad_left: false,
        };
        let batch = QuestionBatcher { options }.batch(cloze(), &Device::flex());
        assert_eq!(ints(batch.tokens), [5, 6, 1, 2, 4, 8, 0, 0, 0, 0]);
        assert_eq!(ints(batch.positions), [0, 1, 2, 3, 2, 0, 0, 0, 0, 0]);
        assert_eq!(ints(batch.branches), [0, 0, 1, 1, 2, 0, 0, 0, 0, 0]);
        assert_eq!(ints(batch.scored), [1, 5]);
        assert_eq!(ints(batch.read), [1, 5, 2, 3, 4]);
        assert_eq!(batch.real_tokens, 6);
        let targets = batch.continuations.unwrap();
        assert_eq!(ints(targets.token), [1, 2, 3, 4, 7, 9]);
        assert_eq!(ints(targets.row), [0, 2, 3, 0, 4, 1]);
        let floats = |t: Tensor<2>| -> Vec<f32> { t.into_data().try_into_vec_as().unwrap() };
        let third = 1.0 / 3.0;
        assert_eq!(
            floats(targets.pool),
            [
                [third, third, third, 0., 0., 0.],
                [0., 0., 0., 0.5, 0.5, 0.],
                [0., 0., 0., 0., 0., 1.],
                [0.; 6]
            ]
            .concat()
        );
        assert_eq!(
            floats(targets.answer),
            [0., 0., 0., 0.5, 0.5, 0., 0., 0., 0., 0., 0., 1.]
        );
        let next = batch.next.unwrap();
        assert_eq!(ints(next.at), [0, 1, 4, 5]);
        assert_eq!(ints(next.target), [6, 4, 7, 9]);
    }

    #[test]
    fn whole_choices_are_computed_to_their_end_and_read_as_before() {
        let mut items = cloze();
        items.iter_mut().for_each(|q| q.whole_choices = true);
        assert_eq!(items[0].length(), 7);
        let options = BatchOptions {
            sequence_targets: true,
            pad_left: false,
        };
        let batch = QuestionBatcher { options }.batch(items, &Device::flex());
        assert_eq!(
            ints(batch.tokens),
            [5, 6, 1, 2, 3, 4, 7, 8, 9, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            ints(batch.positions),
            [0, 1, 2, 3, 4, 2, 3, 0, 1, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            ints(batch.branches),
            [0, 0, 1, 1, 1, 2, 2, 0, 1, 0, 0, 0, 0, 0]
        );
        assert_eq!(ints(batch.read), [1, 7, 2, 3, 5]);
        let targets = batch.continuations.unwrap();
        assert_eq!(ints(targets.row), [0, 2, 3, 0, 4, 1]);
        let mean: Vec<f32> = batch
            .choice_mean
            .unwrap()
            .into_data()
            .try_into_vec_as()
            .unwrap();
        let third = 1.0 / 3.0;
        let rows: Vec<&[f32]> = mean.chunks(14).collect();
        assert_eq!(rows[0][..8], [0., 0., third, third, third, 0., 0., 0.]);
        assert_eq!(rows[1][..8], [0., 0., 0., 0., 0., 0.5, 0.5, 0.]);
        assert_eq!(rows[2][7..10], [0., 1., 0.]);
        assert_eq!(rows[3], [0.; 14]);
        let next = batch.next.unwrap();
        assert_eq!(ints(next.at), [0, 1, 5, 7]);
        assert_eq!(ints(next.target), [6, 4, 7, 9]);
    }
}
