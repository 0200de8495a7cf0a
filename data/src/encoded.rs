//! A question as token ids.

/// A question as token ids, ready for a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedQuestion {
    /// Stable name of the question.
    pub id: String,
    /// Token ids of the prompt; the answer is read after the last.
    pub prompt: Vec<u32>,
    /// The choices in order; where the model writes the answer, the one answer that training
    /// appends.
    pub choices: Vec<Continuation>,
    /// Index of the right answer.
    pub answer: usize,
    /// Whether the prompt was too long and lost a part of its question or passage.
    pub shortened: bool,
    /// What is known of the answer where the model writes it itself; absent where it chooses.
    pub open: Option<OpenEnded>,
    /// Whether the model computes the choices' last tokens too, instead of only predicting them:
    /// for what is read from the choices themselves.
    pub whole_choices: bool,
}

/// What is known of an answer that the model is to write.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenEnded {
    /// Texts that count as right; empty if that is not known.
    pub accepted: Vec<String>,
    /// Most tokens that the model may write.
    pub answer_tokens: usize,
    /// Whether the answer that training appends was cut, because the model could never write it to
    /// its end.
    pub cut: bool,
}

/// A choice as the tokens that follow the prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Continuation {
    /// Token ids: one for a label, one or more for a text.
    pub tokens: Vec<u32>,
    /// Factor of the choice's log-likelihood in its score.
    pub weight: f32,
}

impl EncodedQuestion {
    /// A question whose choices are labels of one token.
    pub fn lettered(id: &str, prompt: Vec<u32>, labels: &[u32], answer: usize) -> Self {
        let choice = |id: &u32| Continuation {
            tokens: vec![*id],
            weight: 1.0,
        };
        Self {
            id: id.into(),
            prompt,
            choices: labels.iter().map(choice).collect(),
            answer,
            shortened: false,
            open: None,
            whole_choices: false,
        }
    }

    /// The same question for a model that writes: choices stand in the batch with their first token
    /// alone.
    pub fn prompt_only(&self) -> Self {
        let mut alone = self.clone();
        alone.whole_choices = false;
        for choice in &mut alone.choices {
            choice.tokens.truncate(1);
        }
        alone
    }

    /// Tokens that the question takes when it is asked: those computed, and room for an answer that
    /// is to be written.
    pub fn asked_length(&self) -> usize {
        let answer = self.open.as_ref().map_or(0, |open| open.answer_tokens);
        self.length() + answer
    }

    /// Tokens that the model computes: the prompt, and of each choice those that
    /// [`Self::computed`] gives.
    pub fn length(&self) -> usize {
        let branches = self.choices.iter().map(|c| self.computed(c).len());
        self.prompt.len() + branches.sum::<usize>()
    }

    /// The tokens of a choice that the model computes: all but the last, which is only predicted,
    /// unless choices are wanted whole.
    pub fn computed<'a>(&self, choice: &'a Continuation) -> &'a [u32] {
        let all = choice.tokens.as_slice();
        &all[..all.len() - usize::from(!self.whole_choices)]
    }

    /// Rotary positions that the question takes: every choice begins again at the prompt's end.
    pub fn positions(&self) -> usize {
        let longest = self.choices.iter().map(|c| c.tokens.len()).max();
        self.prompt.len() + longest.unwrap_or(0)
    }

    /// Every token id of prompt and choices.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        let choices = self.choices.iter().flat_map(|c| &c.tokens);
        self.prompt.iter().chain(choices).copied()
    }
}
