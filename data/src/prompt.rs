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
#[derive(Debug, Clone, PartialEq, Eq)]
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
}

impl Prompt {
    /// The whole text that the model reads, without labels.
    pub fn text(&self) -> String {
        [&*self.head, &self.shortenable, &self.tail].concat()
    }
}
