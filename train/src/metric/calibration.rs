//! Calibration errors and the bins of a reliability diagram.

use serde::{Deserialize, Serialize};

use super::Outcome;

/// Which of its edges a bin of confidence owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BinEdge {
    /// `(lo, hi]`, and 0 in the first bin (Guo et al. 2017).
    #[default]
    Right,
    /// `[lo, hi)`, and 1 in the last bin (torchmetrics, but for its extra bin).
    Left,
}

/// One bin of a reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Bin {
    /// Rows whose confidence lies in the bin.
    pub count: usize,
    /// Mean confidence of these rows.
    pub confidence: f64,
    /// Share of right answers among these rows.
    pub accuracy: f64,
}

impl Bin {
    fn of(members: &[Outcome]) -> Self {
        let n = members.len();
        if n == 0 {
            return Self::default();
        }
        Self {
            count: n,
            confidence: members.iter().map(|m| m.0).sum::<f64>() / n as f64,
            accuracy: members.iter().filter(|m| m.1).count() as f64 / n as f64,
        }
    }

    /// The bin's error: `|accuracy - confidence|`.
    pub fn gap(&self) -> f64 {
        (self.accuracy - self.confidence).abs()
    }
}

/// Sorts outcomes into bins of equal width over `[0, 1]`, for a reliability diagram.
pub fn reliability(outcomes: &[Outcome], bins: usize, edge: BinEdge) -> Vec<Bin> {
    let mut members: Vec<Vec<Outcome>> = vec![Vec::new(); bins];
    for outcome in outcomes {
        let scaled = outcome.0.clamp(0.0, 1.0) * bins as f64;
        let bin = match edge {
            BinEdge::Right => (scaled.ceil() as usize).saturating_sub(1),
            BinEdge::Left => scaled.floor() as usize,
        };
        members[bin.min(bins - 1)].push(*outcome);
    }
    members.iter().map(|m| Bin::of(m)).collect()
}

/// Expected calibration error, `sum_b n_b / n |accuracy_b - confidence_b|` (Eq. 20); NaN for an
/// empty set.
pub fn expected_calibration_error(outcomes: &[Outcome], bins: usize, edge: BinEdge) -> f64 {
    weighted_gap(&reliability(outcomes, bins, edge), outcomes.len())
}

/// Adaptive calibration error: as [`expected_calibration_error`], over groups of equal count by
/// rising confidence, whose sizes differ by at most 1.
pub fn adaptive_calibration_error(outcomes: &[Outcome], bins: usize) -> f64 {
    let mut sorted = outcomes.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = sorted.len();
    let groups: Vec<Bin> = (0..bins)
        .map(|b| Bin::of(&sorted[b * n / bins..(b + 1) * n / bins]))
        .collect();
    weighted_gap(&groups, n)
}

/// Maximum calibration error: the largest gap of a bin that is not empty; NaN for an empty set.
pub fn maximum_calibration_error(outcomes: &[Outcome], bins: usize, edge: BinEdge) -> f64 {
    reliability(outcomes, bins, edge)
        .iter()
        .filter(|bin| bin.count > 0)
        .map(Bin::gap)
        .fold(f64::NAN, f64::max)
}

fn weighted_gap(bins: &[Bin], n: usize) -> f64 {
    let sum: f64 = bins.iter().map(|bin| bin.count as f64 * bin.gap()).sum();
    sum / n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_belong_where_documented_and_nothing_is_dropped() {
        let at = |confidence: f64, edge| {
            reliability(&[(confidence, true)], 10, edge)
                .iter()
                .position(|bin| bin.count == 1)
                .unwrap()
        };
        assert_eq!((at(0.0, BinEdge::Right), at(1.0, BinEdge::Right)), (0, 9));
        assert_eq!((at(0.0, BinEdge::Left), at(1.0, BinEdge::Left)), (0, 9));
        assert_eq!((at(0.5, BinEdge::Right), at(0.5, BinEdge::Left)), (4, 5));
    }

    #[test]
    fn hand_computed_errors() {
        let outcomes = [(0.95, true), (0.95, false), (0.55, true), (0.55, true)];
        let ece = expected_calibration_error(&outcomes, 10, BinEdge::Right);
        assert!((ece - (0.5 * 0.45 + 0.5 * 0.45)).abs() < 1e-12);
        let mce = maximum_calibration_error(&outcomes, 10, BinEdge::Right);
        assert!((mce - 0.45).abs() < 1e-12);
        let ace = adaptive_calibration_error(&outcomes, 2);
        assert!((ace - 0.45).abs() < 1e-12);
        assert!(expected_calibration_error(&[], 10, BinEdge::Right).is_nan());
        assert!(maximum_calibration_error(&[], 10, BinEdge::Right).is_nan());
    }
}
