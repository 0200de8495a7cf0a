//! Questions as tensors, grouped by what they serve.

use burn::prelude::*;

/// Questions as tensors, padded to the longest.
///
/// "Flat" indices count the tokens of the whole batch, row after row: token `t` of row `b` is
/// `b * sequence + t`.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Names of the questions, `batch` of them.
    pub ids: Vec<String>,
    /// What the model reads.
    pub input: BatchInput,
    /// Weights that turn values of single tokens into means over parts of the batch.
    pub means: TokenMeans,
    /// The choices, and where the model's answer is read.
    pub choices: Choices,
    /// The right answers.
    pub answers: Answers,
    /// The part of training that this batch is; absent in evaluation.
    pub training: Option<StepPart>,
}

/// What the model reads: every token of a batch with its place.
#[derive(Debug, Clone)]
pub struct BatchInput {
    /// Token ids, `[batch, sequence]`.
    pub tokens: Tensor<2, Int>,
    /// Rotary positions, `[batch, sequence]`. Every choice begins again after the prompt.
    pub positions: Tensor<2, Int>,
    /// 0 for padding, 1 for tokens, `[batch, sequence]`.
    pub segments: Tensor<2, Int>,
    /// 0 for the prompt, `c + 1` for the text of choice `c`, `[batch, sequence]`.
    pub branches: Tensor<2, Int>,
    /// Count of tokens that are not padding.
    pub real_tokens: usize,
}

/// Weights that turn values of single tokens into means.
#[derive(Debug, Clone)]
pub struct TokenMeans {
    /// Mean over each question's prompt, `[batch, batch * sequence]`; rows sum to 1.
    pub prompt: Tensor<2>,
    /// Mean over all tokens that are not padding, `[1, batch * sequence]`; sums to 1.
    pub tokens: Tensor<2>,
    /// Mean over each choice's own tokens, `[batch * choices, batch * sequence]`; rows sum to 1,
    /// those of missing choices to 0. Present where the model computes choices whole.
    pub choices: Option<Tensor<2>>,
}

/// The choices of each question, and the tokens after which they are read.
#[derive(Debug, Clone)]
pub struct Choices {
    /// Number of choices of each question.
    pub counts: Vec<usize>,
    /// First token of each choice, `[batch, choices]`; missing choices repeat the row's first.
    pub first_tokens: Tensor<2, Int>,
    /// True where a question has fewer choices than another, `[batch, choices]`.
    pub missing: Tensor<2, Bool>,
    /// Flat index of each question's last prompt token, `[batch]`.
    pub prompt_ends: Tensor<1, Int>,
    /// Flat index of every token after which a choice is read, `[reads]`: the prompts' ends first,
    /// then tokens inside the choices.
    pub read_at: Tensor<1, Int>,
    /// All tokens of the choices, if any choice is a text and not a label.
    pub continuations: Option<Continuations>,
}

/// The choices of a batch as texts: every token of every choice is a target.
#[derive(Debug, Clone)]
pub struct Continuations {
    /// Index into [`Choices::read_at`] of the token that predicts each target, `[targets]`.
    pub row: Tensor<1, Int>,
    /// Token id of each target, `[targets]`.
    pub token: Tensor<1, Int>,
    /// Weight of each target in each choice's score, `[batch * choices, targets]`.
    pub pool: Tensor<2>,
    /// Weight of each target in the mean over the right choice's tokens, `[batch, targets]`; rows
    /// sum to 1.
    pub answer: Tensor<2>,
}

/// The right answers of a batch, as the losses and the scores need them.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Index of each question's right choice, `[batch]`.
    pub index: Tensor<1, Int>,
    /// First token of each question's right choice, `[batch]`.
    pub token: Tensor<1, Int>,
    /// Every next token of prompt and right answer, if [`BatchOptions`] asks for it.
    ///
    /// [`BatchOptions`]: crate::BatchOptions
    pub next_tokens: Option<NextTokens>,
    /// Whether the model writes the answers itself. Each row's one choice is then the right one,
    /// and to be right means that every token of it is the most probable.
    pub written: bool,
}

/// Targets of a loss over the whole sequence.
#[derive(Debug, Clone)]
pub struct NextTokens {
    /// Flat index of each predicting token, `[targets]`.
    pub at: Tensor<1, Int>,
    /// The token that follows, `[targets]`.
    pub target: Tensor<1, Int>,
    /// Weight of each target, `[targets]`: 1 / (targets of its question * batch), so that every
    /// question counts alike.
    pub weight: Tensor<1>,
}

/// Which part of which optimizer step a training batch is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepPart {
    /// Number of the optimizer step, from 1.
    pub step: usize,
    /// Seed of what is random in this optimizer step, the same in all its parts.
    pub seed: u64,
    /// Share of the optimizer step's questions, 1 without accumulation. A share of 0 counts for
    /// nothing and only keeps several devices in step.
    pub share: f64,
}

impl Default for StepPart {
    /// The whole first step, with seed 0.
    fn default() -> Self {
        Self {
            step: 1,
            seed: 0,
            share: 1.0,
        }
    }
}

impl Batch {
    /// Number of questions.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no questions.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of tokens that the model computes, padding included.
    pub fn computed_tokens(&self) -> usize {
        self.input.tokens.shape().num_elements()
    }

    /// This batch's share of its optimizer step; 1 outside training.
    pub fn share(&self) -> f64 {
        self.training.map_or(1.0, |part| part.share)
    }

    /// Device on which the tensors live.
    pub fn device(&self) -> Device {
        self.input.tokens.device()
    }

    /// The same batch on another device.
    pub fn to_device(self, device: &Device) -> Self {
        Self {
            input: self.input.moved_to(device),
            means: self.means.moved_to(device),
            choices: self.choices.moved_to(device),
            answers: self.answers.moved_to(device),
            ..self
        }
    }
}

impl BatchInput {
    fn moved_to(self, device: &Device) -> Self {
        Self {
            tokens: self.tokens.to_device(device),
            positions: self.positions.to_device(device),
            segments: self.segments.to_device(device),
            branches: self.branches.to_device(device),
            ..self
        }
    }
}

impl TokenMeans {
    fn moved_to(self, device: &Device) -> Self {
        Self {
            prompt: self.prompt.to_device(device),
            tokens: self.tokens.to_device(device),
            choices: self.choices.map(|mean| mean.to_device(device)),
        }
    }
}

impl Choices {
    /// `[batch, choices]`: the number of questions, and the most choices that one has.
    pub fn dims(&self) -> [usize; 2] {
        self.first_tokens.dims()
    }

    /// Number of tokens after which a choice is read.
    pub fn reads(&self) -> usize {
        self.read_at.dims()[0]
    }

    fn moved_to(self, device: &Device) -> Self {
        Self {
            first_tokens: self.first_tokens.to_device(device),
            missing: self.missing.to_device(device),
            prompt_ends: self.prompt_ends.to_device(device),
            read_at: self.read_at.to_device(device),
            continuations: self.continuations.map(|c| c.moved_to(device)),
            ..self
        }
    }
}

impl Continuations {
    fn moved_to(self, device: &Device) -> Self {
        Self {
            row: self.row.to_device(device),
            token: self.token.to_device(device),
            pool: self.pool.to_device(device),
            answer: self.answer.to_device(device),
        }
    }
}

impl Answers {
    fn moved_to(self, device: &Device) -> Self {
        Self {
            index: self.index.to_device(device),
            token: self.token.to_device(device),
            next_tokens: self.next_tokens.map(|next| NextTokens {
                at: next.at.to_device(device),
                target: next.target.to_device(device),
                weight: next.weight.to_device(device),
            }),
            ..self
        }
    }
}
