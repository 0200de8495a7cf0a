//! What a prompt is, before a [template](crate::template) words it.

/// What stands for an answer in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelStyle {
    /// A letter after a space: ` A`, ` B`, ..
    Letter,
    /// The choice itself after a space: ` true`, ` false`.
    Choice,
    /// No label: the model writes the answer itself, to the end of the line.
    Written,
}

/// A question as the text that the model completes.
///
/// The text is in parts, so that a prompt that is too long can be shortened where it does no harm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Examples before the question, where the model reads them as one text.
    pub examples: String,
    /// Text before the part that may be shortened.
    pub head: String,
    /// The part that may be shortened: the question, or the passage.
    pub shortenable: String,
    /// Text after the part that may be shortened. It is always kept whole and ends where the
    /// answer is read.
    pub tail: String,
    /// One text for each choice, to follow the tail: the label, or for cloze scoring the choice.
    pub labels: Vec<String>,
    /// What a chat template puts around the three parts; absent where the model reads them alone.
    pub frame: Option<Frame>,
}

/// Text of a chat template around a prompt. The names of special tokens in it are special tokens;
/// in the prompt itself they are text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Text before the prompt's head, or before the first earlier turn.
    pub before: String,
    /// Examples before the question, as earlier turns.
    pub turns: Vec<Turn>,
    /// Text after the prompt's tail, to where the answer is read.
    pub after: String,
}

/// What a user or the assistant said earlier in a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// What was said: text, whatever special tokens it names.
    pub text: String,
    /// The template's text behind it.
    pub behind: String,
}

impl Prompt {
    /// The whole text that the model reads, without labels.
    pub fn text(&self) -> String {
        let text = self.question_with(&self.shortenable);
        match &self.frame {
            Some(frame) => {
                let turns = frame
                    .turns
                    .iter()
                    .flat_map(|turn| [&*turn.text, &turn.behind]);
                let before = std::iter::once(&*frame.before).chain(turns);
                before.chain([&*text, &frame.after]).collect()
            }
            None => [&*self.examples, &text].concat(),
        }
    }

    /// The same question without examples before it.
    pub fn alone(&self) -> Self {
        let mut alone = self.clone();
        alone.examples.clear();
        if let Some(frame) = &mut alone.frame {
            frame.turns.clear();
        }
        alone
    }

    /// Whether examples stand before the question.
    pub fn has_examples(&self) -> bool {
        let turns = self
            .frame
            .as_ref()
            .is_some_and(|frame| !frame.turns.is_empty());
        turns || !self.examples.is_empty()
    }

    /// The question's text inside the frame and behind examples, with another one in place of the
    /// part that may be shortened.
    pub(crate) fn question_with(&self, shortenable: &str) -> String {
        [&*self.head, shortenable, &self.tail].concat()
    }

    /// The end of the text that the model reads, which no shortening changes.
    pub(crate) fn end(&self) -> &str {
        match &self.frame {
            Some(frame) if !frame.after.is_empty() => &frame.after,
            _ => &self.tail,
        }
    }
}
