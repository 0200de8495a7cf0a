//! Questions to tensors: the layout of a [`Batch`].
//!
//! A row holds its prompt and then, one after another, the tokens of each choice that the model
//! computes. Padding follows, or comes first if [`BatchOptions::pad_left`] says so.

use burn::data::dataloader::batcher::Batcher;
use burn::prelude::*;

use crate::batch::{Answers, Batch, BatchInput, Choices, Continuations, NextTokens, TokenMeans};
use crate::encoded::{Continuation, EncodedQuestion};
use crate::padding::Padding;

/// What a batch carries beside the prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchOptions {
    /// Append each answer's token to its prompt and list every next token: for a loss over the
    /// whole sequence.
    pub sequence_targets: bool,
    /// Pad on the left, as some public code does; the numbers must not change.
    pub pad_left: bool,
    /// To what length rows are padded.
    pub padding: Padding,
}

/// Turns questions into a [`Batch`], as Burn's data loaders ask for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct QuestionBatcher {
    /// What the batches carry beside the prompts.
    pub options: BatchOptions,
}

impl Batcher<EncodedQuestion, Batch> for QuestionBatcher {
    fn batch(&self, questions: Vec<EncodedQuestion>, device: &Device) -> Batch {
        let mut grid = Grid::of(&questions, self.options, device);
        let upload = Upload(device);
        let tokens = [grid.rows, grid.sequence];
        Batch {
            answers: answers(&questions, &grid, self.options, &upload),
            choices: choices(&questions, &grid, &upload),
            means: grid.means(&upload),
            input: BatchInput {
                tokens: upload.integers(grid.tokens, tokens),
                positions: upload.integers(grid.positions, tokens),
                segments: upload.integers(grid.segments, tokens),
                branches: upload.integers(grid.branches, tokens),
                real_tokens: grid.real_tokens,
            },
            ids: questions.into_iter().map(|q| q.id).collect(),
            training: None,
        }
    }
}

fn choices(questions: &[EncodedQuestion], grid: &Grid, upload: &Upload) -> Choices {
    let (rows, most) = (grid.rows, grid.choices);
    let first = |q: &EncodedQuestion, c: usize| {
        let choice = q.choices.get(c).unwrap_or(&q.choices[0]);
        choice.tokens[0] as i32
    };
    let missing = |q: &EncodedQuestion, c: usize| c >= q.choices.len();
    let missing = TensorData::new(each_choice(questions, most, missing), [rows, most]);
    let targets = has_texts(questions).then(|| Targets::of(questions, most));
    Choices {
        counts: questions.iter().map(|q| q.choices.len()).collect(),
        first_tokens: upload.integers(each_choice(questions, most, first), [rows, most]),
        missing: Tensor::from_data(missing, upload.0),
        prompt_ends: upload.line(grid.prompt_ends.clone()),
        read_at: upload.line([&*grid.prompt_ends, &grid.inside].concat()),
        continuations: targets.map(|t| {
            let n = t.token.len();
            Continuations {
                row: upload.line(t.row),
                token: upload.line(t.token),
                pool: upload.floats(t.pool, [rows * most, n]),
                answer: upload.floats(t.answer, [rows, n]),
            }
        }),
    }
}

/// A value for each of `most` choices of each question, those that it lacks among them.
fn each_choice<T>(
    questions: &[EncodedQuestion],
    most: usize,
    value: impl Fn(&EncodedQuestion, usize) -> T,
) -> Vec<T> {
    let mut values = Vec::with_capacity(questions.len() * most);
    for question in questions {
        values.extend((0..most).map(|choice| value(question, choice)));
    }
    values
}

fn answers(
    questions: &[EncodedQuestion],
    grid: &Grid,
    options: BatchOptions,
    upload: &Upload,
) -> Answers {
    let token = |q: &EncodedQuestion| q.choices[q.answer].tokens[0] as i32;
    Answers {
        index: upload.line(questions.iter().map(|q| q.answer as i32).collect()),
        token: upload.line(questions.iter().map(token).collect()),
        next_tokens: options.sequence_targets.then(|| NextTokens {
            at: upload.line(grid.next_at.clone()),
            target: upload.line(grid.next_target.clone()),
            weight: Tensor::from_data(grid.next_weight.as_slice(), upload.0),
        }),
        written: questions.iter().any(|q| q.open.is_some()),
    }
}

/// Whether a choice is a text, so that each of its tokens is read.
fn has_texts(questions: &[EncodedQuestion]) -> bool {
    let text = |c: &Continuation| c.tokens.len() > 1 || c.weight != 1.0;
    let mut texts = questions.iter();
    texts.any(|q| q.open.is_some() || q.choices.iter().any(text))
}

/// Moves vectors to tensors on a device.
struct Upload<'a>(&'a Device);

impl Upload<'_> {
    fn line(&self, values: Vec<i32>) -> Tensor<1, Int> {
        let n = values.len();
        Tensor::from_data(TensorData::new(values, [n]), self.0)
    }

    fn integers(&self, values: Vec<i32>, shape: [usize; 2]) -> Tensor<2, Int> {
        Tensor::from_data(TensorData::new(values, shape), self.0)
    }

    fn floats(&self, values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
        Tensor::from_data(TensorData::new(values, shape), self.0)
    }
}

/// The host side of a batch while it is filled.
struct Grid {
    rows: usize,
    sequence: usize,
    /// Most choices of a question.
    choices: usize,
    real_tokens: usize,
    tokens: Vec<i32>,
    positions: Vec<i32>,
    segments: Vec<i32>,
    branches: Vec<i32>,
    prompt_ends: Vec<i32>,
    /// Tokens inside the choices, in the order of the questions and their choices.
    inside: Vec<i32>,
    prompt_mean: Vec<f32>,
    token_mean: Vec<f32>,
    choice_mean: Option<Vec<f32>>,
    next_at: Vec<i32>,
    next_target: Vec<i32>,
    next_weight: Vec<f32>,
}

impl Grid {
    fn of(questions: &[EncodedQuestion], options: BatchOptions, device: &Device) -> Self {
        let whole = questions.iter().any(|q| q.whole_choices);
        // A label is appended to its prompt; a text stands in the batch anyway.
        let append = options.sequence_targets && !has_texts(questions) && !whole;
        let length = |q: &EncodedQuestion| q.length() + usize::from(append);
        let lengths: Vec<usize> = questions.iter().map(length).collect();
        let longest = lengths.iter().copied().max().unwrap_or(1);
        let sequence = options.padding.padded(longest, device);
        let mut grid = Self::empty(questions, &lengths, sequence, whole);
        for (row, (question, length)) in questions.iter().zip(&lengths).enumerate() {
            let start = match options.pad_left {
                true => grid.sequence - length,
                false => 0,
            };
            grid.place(row, start, question, append);
            grid.choice_mean(row, start, question);
            grid.token_mean(row, start, *length);
            if options.sequence_targets {
                grid.next_tokens(row, start, question);
            }
        }
        grid
    }

    fn empty(
        questions: &[EncodedQuestion],
        lengths: &[usize],
        sequence: usize,
        whole_choices: bool,
    ) -> Self {
        let rows = questions.len();
        let choices = questions.iter().map(|q| q.choices.len()).max().unwrap_or(1);
        let flat = rows * sequence;
        Self {
            rows,
            sequence,
            choices,
            real_tokens: lengths.iter().sum(),
            tokens: vec![0; flat],
            positions: vec![0; flat],
            segments: vec![0; flat],
            branches: vec![0; flat],
            prompt_ends: Vec::with_capacity(rows),
            inside: vec![],
            prompt_mean: vec![0.0; rows * flat],
            token_mean: vec![0.0; flat],
            choice_mean: whole_choices.then(|| vec![0.0; rows * choices * flat]),
            next_at: vec![],
            next_target: vec![],
            next_weight: vec![],
        }
    }

    fn means(&mut self, upload: &Upload) -> TokenMeans {
        let flat = self.rows * self.sequence;
        let take = std::mem::take::<Vec<f32>>;
        let choices = self.choice_mean.take();
        TokenMeans {
            prompt: upload.floats(take(&mut self.prompt_mean), [self.rows, flat]),
            tokens: upload.floats(take(&mut self.token_mean), [1, flat]),
            choices: choices.map(|mean| upload.floats(mean, [self.rows * self.choices, flat])),
        }
    }

    /// Puts the prompt down, then the computed tokens of every choice, each choice at the positions
    /// after the prompt.
    fn place(&mut self, row: usize, start: usize, question: &EncodedQuestion, append: bool) {
        let prompt = question.prompt.len();
        let first = row * self.sequence + start;
        for (position, id) in question.prompt.iter().enumerate() {
            self.put(first + position, *id, position, 0);
            self.prompt_mean[row * self.rows * self.sequence + first + position] =
                1.0 / prompt as f32;
        }
        self.prompt_ends.push((first + prompt - 1) as i32);
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

    fn choice_mean(&mut self, row: usize, start: usize, question: &EncodedQuestion) {
        let Some(mean) = &mut self.choice_mean else {
            return;
        };
        let flat = self.rows * self.sequence;
        let mut at = row * self.sequence + start + question.prompt.len();
        for (choice, continuation) in question.choices.iter().enumerate() {
            let length = question.computed(continuation).len();
            let own = (row * self.choices + choice) * flat + at;
            mean[own..own + length].fill(1.0 / length as f32);
            at += length;
        }
    }

    fn token_mean(&mut self, row: usize, start: usize, length: usize) {
        let first = row * self.sequence + start;
        self.token_mean[first..first + length].fill(1.0 / self.real_tokens as f32);
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
    fn of(questions: &[EncodedQuestion], most: usize) -> Self {
        let rows = questions.len();
        let choices = |q: &EncodedQuestion| q.choices.iter().map(|c| c.tokens.len()).sum::<usize>();
        let n: usize = questions.iter().map(choices).sum();
        let mut targets = Self {
            row: Vec::with_capacity(n),
            token: Vec::with_capacity(n),
            pool: vec![0.0; rows * most * n],
            answer: vec![0.0; rows * n],
        };
        let mut inside = rows;
        for (row, question) in questions.iter().enumerate() {
            for (choice, continuation) in question.choices.iter().enumerate() {
                let count = continuation.tokens.len();
                for (offset, id) in continuation.tokens.iter().enumerate() {
                    let target = targets.token.len();
                    targets.token.push(*id as i32);
                    // The first token is read after the prompt, every other after the one before.
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
        assert_eq!(ints(batch.input.tokens), [5, 6, 7, 8, 0, 0]);
        assert_eq!(ints(batch.input.segments), [1, 1, 1, 1, 0, 0]);
        assert_eq!(ints(batch.choices.prompt_ends), [2, 3]);
        assert_eq!(ints(batch.choices.first_tokens), [1, 2, 1, 3, 4, 9]);
        assert_eq!(ints(batch.answers.token), [2, 3]);
        let missing: Vec<bool> = batch.choices.missing.into_data().try_into_vec_as().unwrap();
        assert_eq!(missing, [false, false, true, false, false, false]);
        let mean: Vec<f32> = batch.means.prompt.into_data().try_into_vec_as().unwrap();
        let third = 1.0 / 3.0;
        assert_eq!(mean[..6], [third, third, third, 0., 0., 0.]);
        assert_eq!(mean[6..], [0., 0., 0., 1., 0., 0.]);
        let options = BatchOptions {
            pad_left: true,
            sequence_targets: true,
            ..Default::default()
        };
        let batch = QuestionBatcher { options }.batch(items, &Device::flex());
        assert_eq!(ints(batch.input.tokens), [5, 6, 7, 2, 0, 0, 8, 3]);
        assert_eq!(ints(batch.input.positions), [0, 1, 2, 3, 0, 0, 0, 1]);
        assert_eq!(ints(batch.choices.prompt_ends), [2, 6]);
        let next = batch.answers.next_tokens.unwrap();
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
            ..Default::default()
        };
        let batch = QuestionBatcher { options }.batch(cloze(), &Device::flex());
        assert_eq!(ints(batch.input.tokens), [5, 6, 1, 2, 4, 8, 0, 0, 0, 0]);
        assert_eq!(ints(batch.input.positions), [0, 1, 2, 3, 2, 0, 0, 0, 0, 0]);
        assert_eq!(ints(batch.input.branches), [0, 0, 1, 1, 2, 0, 0, 0, 0, 0]);
        assert_eq!(ints(batch.choices.prompt_ends), [1, 5]);
        assert_eq!(ints(batch.choices.read_at), [1, 5, 2, 3, 4]);
        assert_eq!(batch.input.real_tokens, 6);
        let targets = batch.choices.continuations.unwrap();
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
        let next = batch.answers.next_tokens.unwrap();
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
            ..Default::default()
        };
        let batch = QuestionBatcher { options }.batch(items, &Device::flex());
        assert_eq!(
            ints(batch.input.tokens),
            [5, 6, 1, 2, 3, 4, 7, 8, 9, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            ints(batch.input.positions),
            [0, 1, 2, 3, 4, 2, 3, 0, 1, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            ints(batch.input.branches),
            [0, 0, 1, 1, 1, 2, 2, 0, 1, 0, 0, 0, 0, 0]
        );
        assert_eq!(ints(batch.choices.read_at), [1, 7, 2, 3, 5]);
        let targets = batch.choices.continuations.unwrap();
        assert_eq!(ints(targets.row), [0, 2, 3, 0, 4, 1]);
        let mean: Vec<f32> = batch
            .means
            .choices
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
        let next = batch.answers.next_tokens.unwrap();
        assert_eq!(ints(next.at), [0, 1, 5, 7]);
        assert_eq!(ints(next.target), [6, 4, 7, 9]);
    }
}
