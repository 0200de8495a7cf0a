//! Which part of the program reads which setting, by section or by dotted key. What a single method
//! reads is in that method's entry, see [`crate::method::Entry`].

/// Read by every method.
pub(crate) const EVERY_METHOD: &[&str] = &[
    "model",
    "data",
    "evaluation",
    "method.name",
    "method.variant",
    "train.seed",
];

/// Part of the settings of every training.
pub(crate) const EVERY_TRAINING: &[&str] = &["model", "data", "evaluation", "train.seed"];

/// Read only where there are routers, whatever else of the section a method reads.
pub(crate) const ROUTERS: &[&str] = &["train.router_rate_factor"];

/// Read when a finished training is asked questions, whatever the method.
pub(crate) const ASKING: &[&str] = &["evaluation", "data.answer_tokens", "data.max_tokens"];

/// Read only where the model writes its answers.
pub(crate) const WRITTEN_ANSWERS: &[&str] = &["data.answer_tokens", "evaluation.answer_confidence"];

/// Read by an evaluation alone: they change no trained adapter.
pub(crate) const EVALUATION_ALONE: &[&str] =
    &["evaluation", "data.test_limit", "data.held_out_limit"];

/// Whether a dotted key is one of `parts`, or in one of those sections.
pub(crate) fn holds(parts: &[&str], key: &str) -> bool {
    parts.iter().any(|part| {
        let rest = key.strip_prefix(part);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Whether a setting is read when a finished training is asked questions, whatever the method.
pub fn is_read_when_asking(key: &str) -> bool {
    holds(ASKING, key)
}

/// Whether a setting is read only where the model writes its answers.
pub fn is_about_written_answers(key: &str) -> bool {
    holds(WRITTEN_ANSWERS, key)
}

/// Whether a setting is read by an evaluation alone, and decides nothing of a training.
pub fn is_read_by_evaluation_alone(key: &str) -> bool {
    holds(EVALUATION_ALONE, key)
}
