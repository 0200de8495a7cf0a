//! Which numbers a setting takes.

use toml::Value;

use crate::error::TrainError;

/// The numbers that a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// From 1 to a million million, more than anything here can be counted to.
    AtLeastOne,
    /// From one number to another, both included.
    Between(u32, u32),
    /// Above 0, and at most this.
    UpTo(u32),
    /// Finite and above 0.
    Positive,
    /// Finite and 0 or more.
    NotNegative,
    /// Above 0 and below 1.
    Share,
    /// From 0 up to, but not, 1.
    ShareOrNone,
}

/// The range of every setting that all methods share, by its dotted key.
pub const RANGES: &[(&str, Range)] = &[
    ("train.batch_size", Range::AtLeastOne),
    ("train.micro_batch", Range::AtLeastOne),
    ("train.micro_tokens", Range::AtLeastOne),
    ("train.checkpoint_every", Range::AtLeastOne),
    ("data.max_tokens", Range::AtLeastOne),
    ("data.answer_tokens", Range::AtLeastOne),
    ("data.monitor_limit", Range::AtLeastOne),
    ("evaluation.bins", Range::Between(1, 10_000)),
    ("evaluation.bootstrap", Range::Between(0, 1_000_000)),
    ("evaluation.batch_tokens", Range::AtLeastOne),
    ("train.learning_rate", Range::UpTo(1)),
    ("train.router_rate_factor", Range::Positive),
    ("train.lora_plus_ratio", Range::Positive),
    ("train.epochs", Range::UpTo(1_000_000)),
    ("train.snapshots", Range::Between(0, 1000)),
    ("method.perturbations", Range::Between(0, 1000)),
    // Unset is off; 0 would scale every gradient to nothing.
    ("train.gradient_clip", Range::Positive),
    ("train.weight_decay", Range::NotNegative),
    ("objective.load_balancing_weight", Range::NotNegative),
    ("objective.calibration_weight", Range::NotNegative),
    ("objective.calibration_share", Range::ShareOrNone),
    ("objective.label_smoothing", Range::Share),
    ("objective.focal_gamma", Range::NotNegative),
    ("objective.mmce_weight", Range::NotNegative),
    ("data.held_out_fraction", Range::Share),
];

impl Range {
    /// Checks the value of a setting; one that is no number is not looked at.
    ///
    /// # Errors
    /// A number out of range, with what was expected.
    pub(crate) fn check_value(self, key: &str, value: &Value) -> Result<(), TrainError> {
        match value {
            Value::Integer(number) => self.check(key, *number as f64),
            Value::Float(number) => self.check(key, *number),
            _ => Ok(()),
        }
    }

    /// Checks the number of a setting.
    ///
    /// # Errors
    /// A number out of range, with what was expected.
    pub(crate) fn check(self, key: &str, number: f64) -> Result<(), TrainError> {
        match self.expected(number) {
            None => Ok(()),
            Some(expected) => {
                let reason = format!("expected {expected}, got {number}");
                Err(TrainError::config(key, reason))
            }
        }
    }

    /// What was expected, if a number is out of range.
    fn expected(self, number: f64) -> Option<String> {
        let (within, expected) = match self {
            Self::AtLeastOne if number < 1.0 => (false, "at least 1".into()),
            Self::AtLeastOne => (number <= 1e12, "at most 1000000000000".into()),
            Self::Between(low, high) => (
                (f64::from(low)..=f64::from(high)).contains(&number),
                format!("from {low} to {high}"),
            ),
            Self::UpTo(high) => (
                number > 0.0 && number <= f64::from(high),
                format!("a positive number, at most {high}"),
            ),
            Self::Positive => (
                number.is_finite() && number > 0.0,
                "a positive number".into(),
            ),
            Self::NotNegative => (number.is_finite() && number >= 0.0, "0 or more".into()),
            Self::Share => (
                number > 0.0 && number < 1.0,
                "a share between 0 and 1".into(),
            ),
            Self::ShareOrNone => (
                (0.0..1.0).contains(&number),
                "a share from 0 up to, but not, 1".into(),
            ),
        };
        (!within).then_some(expected)
    }
}
