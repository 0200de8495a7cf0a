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
    /// Text before the prompt's head.
    pub before: String,
    /// Text after the prompt's tail, to where the answer is read.
    pub after: String,
}

impl Prompt {
    /// The whole text that the model reads, without labels.
    pub fn text(&self) -> String {
        let text = self.question_with(&self.shortenable);
        match &self.frame {
            Some(frame) => [&*frame.before, &text, &frame.after].concat(),
            None => text,
        }
    }

    /// The text inside the frame, with another one in place of the part that may be shortened.
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
