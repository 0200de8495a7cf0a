//! The metrics as burn `Metric`s, for the Learner: values of a whole epoch, never means of batches.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};

use super::calibration::{BinEdge, expected_calibration_error};
use crate::prediction::ScoredRow;
use crate::step::StepFacts;

/// What a metric of a whole split keeps of a row.
#[derive(Clone, Copy)]
struct Judged {
    confidence: f64,
    correct: bool,
    flu: Option<f64>,
}

impl Judged {
    fn of(row: &ScoredRow) -> Self {
        Self {
            confidence: row.confidence(),
            correct: row.correct(),
            flu: row.flu,
        }
    }
}

/// A metric of a whole split: it finishes once.
#[derive(Clone)]
pub struct WholeSet {
    name: MetricName,
    higher_is_better: bool,
    finish: fn(&[Judged]) -> f64,
    rows: Vec<Judged>,
    last: Option<f64>,
}

impl WholeSet {
    fn new(name: &str, higher_is_better: bool, finish: fn(&[Judged]) -> f64) -> Self {
        Self {
            name: Arc::new(name.into()),
            higher_is_better,
            finish,
            rows: Vec::new(),
            last: None,
        }
    }

    /// Share of right answers.
    pub fn accuracy() -> Self {
        Self::new("accuracy", true, |rows| {
            rows.iter().filter(|row| row.correct).count() as f64 / rows.len() as f64
        })
    }

    /// Expected calibration error with 15 bins.
    pub fn ece() -> Self {
        Self::new("ece", false, |rows| {
            let outcomes: Vec<_> = rows.iter().map(|r| (r.confidence, r.correct)).collect();
            expected_calibration_error(&outcomes, 15, BinEdge::Right)
        })
    }

    /// Mean functional-level uncertainty, high = certain.
    pub fn flu() -> Self {
        Self::new("flu", true, |rows| {
            rows.iter().filter_map(|r| r.flu).sum::<f64>() / rows.len() as f64
        })
    }
}

impl Metric for WholeSet {
    type Input = StepFacts;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: None,
            higher_is_better: self.higher_is_better,
        }
        .into()
    }

    fn update(
        &mut self,
        facts: &StepFacts,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        self.rows.extend(facts.rows.iter().map(Judged::of));
        Ok(SerializedEntry::not_available(None))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let value = (self.finish)(&self.rows);
        self.last = Some(value);
        Ok(SerializedEntry::new(
            format!("{value:.4}"),
            NumericEntry::Final(value).serialize(),
        ))
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.last = None;
    }
}

impl Numeric for WholeSet {
    fn value(&self) -> Option<NumericEntry> {
        None
    }

    fn running_value(&self) -> Option<NumericEntry> {
        None
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.last.unwrap_or(f64::NAN))
    }
}

/// A loss term, or the weighted sum of all: each batch counts by its questions, so a short last
/// batch does not weigh more.
#[derive(Clone)]
pub struct LossTerm {
    name: MetricName,
    term: Option<&'static str>,
    sum: f64,
    questions: usize,
    last: Option<NumericEntry>,
}

impl LossTerm {
    /// A single term of the loss, by its name.
    pub fn of(term: &'static str) -> Self {
        Self {
            name: Arc::new(term.into()),
            term: Some(term),
            sum: 0.0,
            questions: 0,
            last: None,
        }
    }

    /// The weighted sum of all terms.
    pub fn total() -> Self {
        Self {
            term: None,
            ..Self::of("loss")
        }
    }

    fn mean(&self) -> f64 {
        self.sum / self.questions as f64
    }
}

impl Metric for LossTerm {
    type Input = StepFacts;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes {
            unit: None,
            higher_is_better: false,
        }
        .into()
    }

    fn update(
        &mut self,
        facts: &StepFacts,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let value = match self.term {
            Some(name) => facts.terms.iter().find(|(n, _, _)| *n == name).map(|t| t.2),
            None => Some(facts.loss()),
        };
        let Some(value) = value else {
            return Ok(SerializedEntry::not_available(None));
        };
        let count = facts.rows.len();
        self.sum += value * count as f64;
        self.questions += count;
        let entry = NumericEntry::Aggregated {
            aggregated_value: value,
            count,
        };
        self.last = Some(entry.clone());
        Ok(SerializedEntry::new(
            format!("{value:.4}"),
            entry.serialize(),
        ))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        let value = self.mean();
        Ok(SerializedEntry::new(
            format!("{value:.4}"),
            NumericEntry::Final(value).serialize(),
        ))
    }

    fn clear(&mut self) {
        (self.sum, self.questions, self.last) = (0.0, 0, None);
    }
}

impl Numeric for LossTerm {
    fn value(&self) -> Option<NumericEntry> {
        self.last.clone()
    }

    fn running_value(&self) -> Option<NumericEntry> {
        (self.questions > 0).then(|| NumericEntry::Value(self.mean()))
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.mean())
    }
}

/// Hands every step's facts to a listener: how dashboard and log learn of things that are no
/// metric, such as expert load.
#[derive(Clone)]
pub struct Tap {
    name: MetricName,
    listener: Arc<dyn Fn(&StepFacts) + Send + Sync>,
}

impl Tap {
    /// Calls `listener` with each step of a split.
    pub fn new(listener: Arc<dyn Fn(&StepFacts) + Send + Sync>) -> Self {
        Self {
            name: Arc::new("tap".into()),
            listener,
        }
    }
}

impl Metric for Tap {
    type Input = StepFacts;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn update(
        &mut self,
        facts: &StepFacts,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        (self.listener)(facts);
        Ok(SerializedEntry::not_available(None))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(SerializedEntry::not_available(None))
    }

    fn clear(&mut self) {}
}
