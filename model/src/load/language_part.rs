//! The language part in the files of a model that also sees.

use burn::tensor::TensorData;

use super::Weights;
use crate::error::ModelError;

/// A source that holds a decoder as the language part of a larger model, read as if it stood by
/// itself. Everything else in it is left alone.
pub(super) struct LanguagePart<W>(pub(super) W);

/// Where such files keep the decoder and its head, each in the spelling of transformers 4.52 and
/// later, and in that of earlier ones, which published files have.
const DECODER: [&str; 2] = ["model.language_model.", "language_model.model."];
const HEAD: [&str; 2] = ["", "language_model."];

impl<W: Weights> Weights for LanguagePart<W> {
    fn tensor(&mut self, name: &str) -> Result<TensorData, ModelError> {
        let spelled = match name.strip_prefix("model.") {
            Some(inner) => DECODER.map(|prefix| format!("{prefix}{inner}")),
            None => HEAD.map(|prefix| format!("{prefix}{name}")),
        };
        match self.0.tensor(&spelled[0]) {
            Err(ModelError::MissingWeight { .. }) => self.0.tensor(&spelled[1]),
            other => other,
        }
    }
}
