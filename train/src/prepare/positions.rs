//! How long a run's sequences are, and what that asks of the rotary table.

use model::RopeScaling;

use super::Prepared;
use crate::error::TrainError;

/// Positions of the rotary table, for sequences of at most `limit` tokens by the settings. With
/// LongRoPE its length chooses between two sets of frequencies: `limit` decides, so that a run
/// answers new questions as it was trained, however long these are.
fn rotary_positions(scaling: Option<&RopeScaling>, limit: usize, longest: usize) -> usize {
    match short_context(scaling) {
        None => longest,
        Some(context) if limit as f64 > context => longest.max(limit),
        Some(context) => longest.min(context as usize),
    }
}

/// The tokens up to which LongRoPE's frequencies for short texts serve; none of other rotations.
fn short_context(scaling: Option<&RopeScaling>) -> Option<f64> {
    match scaling? {
        RopeScaling::LongRope {
            original_max_position_embeddings,
            ..
        } => Some(*original_max_position_embeddings),
        _ => None,
    }
}

impl Prepared {
    /// Positions of the longest question, in any wording.
    pub fn positions(&self) -> usize {
        let questions = [&*self.train, &self.held_out, &self.test];
        let longest = questions.into_iter().flatten().map(|q| q.positions() + 1);
        // Other wordings are a few words longer.
        longest.max().unwrap_or(1) + 64 + self.answer_tokens
    }

    /// Tokens of the longest sequence that the settings allow.
    fn longest(&self) -> usize {
        self.prompt_tokens + self.answer_tokens + self.appended
    }

    /// Positions of the rotary table, where the longest question of other sets has so many.
    pub(super) fn rotary_positions(&self, others: usize) -> usize {
        let scaling = self.model.rope_scaling.as_ref();
        rotary_positions(scaling, self.longest(), self.positions().max(others))
    }

    /// Refuses questions that may be longer than a model with LongRoPE was trained for, where this
    /// run's are not: its frequencies were chosen for the shorter ones.
    ///
    /// # Errors
    /// The setting, and the bound.
    pub(crate) fn takes(&self, other: &Self) -> Result<(), TrainError> {
        if let Some(context) = short_context(self.model.rope_scaling.as_ref())
            && self.longest() as f64 <= context
            && other.longest() as f64 > context
        {
            let reason = format!(
                "the run's own questions stay within the {context} tokens that the model was first trained for, so that longer ones would be read with other frequencies: keep to them, or train with such a limit"
            );
            return Err(TrainError::config("data.max_tokens", reason));
        }
        Ok(())
    }

    /// Positions of any question that may come, in any wording.
    pub fn most_positions(&self) -> usize {
        self.prompt_tokens + self.positions()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A training on short questions and a prediction of long ones rotate alike.
    #[test]
    fn the_settings_choose_between_the_frequencies_of_longrope() {
        let scaling = RopeScaling::LongRope {
            short_factor: vec![1.0],
            long_factor: vec![2.0],
            original_max_position_embeddings: 64.0,
            attention_factor: 1.0,
        };
        for (limit, long) in [(40, false), (64, false), (65, true), (200, true)] {
            for longest in [30, 64, 90, 300] {
                let positions = rotary_positions(Some(&scaling), limit, longest);
                assert_eq!(positions > 64, long, "{limit} {longest}");
                assert!(positions >= limit.min(longest), "{limit} {longest}");
            }
        }
        assert_eq!(rotary_positions(None, 40, 90), 90);
    }
}
