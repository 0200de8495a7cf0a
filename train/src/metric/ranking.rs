//! How well a confidence ranks right above wrong.

use super::Outcome;

/// Probability that a right answer has more confidence than a wrong one, ties half; NaN if all are
/// right or all wrong.
pub fn auroc(outcomes: &[Outcome]) -> f64 {
    let mut sorted = outcomes.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let right = outcomes.iter().filter(|o| o.1).count() as f64;
    let wrong = outcomes.len() as f64 - right;
    let (mut below, mut pairs) = (0.0, 0.0);
    for tie in sorted.chunk_by(|a, b| a.0 == b.0) {
        let tie_right = tie.iter().filter(|o| o.1).count() as f64;
        let tie_wrong = tie.len() as f64 - tie_right;
        pairs += tie_right * (below + tie_wrong / 2.0);
        below += tie_wrong;
    }
    pairs / (right * wrong)
}

/// The risk-coverage curve: error rate among the k most confident, for k = 1..n. Within a tie the
/// expected error is taken.
pub fn risk_coverage(outcomes: &[Outcome]) -> Vec<f64> {
    let mut sorted = outcomes.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut risks, mut wrong, mut taken) = (Vec::with_capacity(sorted.len()), 0.0, 0usize);
    for tie in sorted.chunk_by(|a, b| a.0 == b.0) {
        let tie_wrong = tie.iter().filter(|o| !o.1).count() as f64;
        for inside in 1..=tie.len() {
            let expected = tie_wrong * inside as f64 / tie.len() as f64;
            risks.push((wrong + expected) / (taken + inside) as f64);
        }
        wrong += tie_wrong;
        taken += tie.len();
    }
    risks
}

/// Area under the risk-coverage curve: its mean; NaN for an empty set.
pub fn aurc(outcomes: &[Outcome]) -> f64 {
    let risks = risk_coverage(outcomes);
    risks.iter().sum::<f64>() / risks.len() as f64
}

/// AURC less that of a perfect ranking at the same accuracy.
pub fn excess_aurc(outcomes: &[Outcome]) -> f64 {
    let right = outcomes.iter().filter(|o| o.1).count();
    let perfect: Vec<Outcome> = (0..outcomes.len())
        .map(|rank| (1.0 - rank as f64, rank < right))
        .collect();
    aurc(outcomes) - aurc(&perfect)
}

/// How many of `n` rows are answered at a coverage; at least one.
pub fn answered(n: usize, coverage: f64) -> usize {
    (n as f64 * coverage).round().max(1.0) as usize
}

/// Accuracy of the most confident share, at least one row; NaN for an empty set.
pub fn accuracy_at_coverage(outcomes: &[Outcome], coverage: f64) -> f64 {
    let risks = risk_coverage(outcomes);
    let kept = answered(risks.len(), coverage);
    risks.get(kept - 1).map_or(f64::NAN, |risk| 1.0 - risk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auroc_of_hand_made_rankings() {
        assert_eq!(auroc(&[(0.9, true), (0.1, false)]), 1.0);
        assert_eq!(auroc(&[(0.5, true), (0.5, false)]), 0.5);
        // Pairs: (.8 over .6) yes, (.8 over .7) yes, (.65 over .6) yes, (.65 over .7) no.
        let four = [(0.8, true), (0.65, true), (0.6, false), (0.7, false)];
        assert_eq!(auroc(&four), 0.75);
        assert!(auroc(&[(0.9, true)]).is_nan());
    }

    #[test]
    fn the_risk_coverage_curve_of_hand_made_rankings() {
        let outcomes = [(0.9, true), (0.8, false), (0.7, true)];
        assert_eq!(risk_coverage(&outcomes), [0.0, 0.5, 1.0 / 3.0]);
        assert!((excess_aurc(&outcomes) - (5.0 / 18.0 - 1.0 / 9.0)).abs() < 1e-12);
        // A tie of one right and one wrong answer: half an error expected after the first.
        assert_eq!(risk_coverage(&[(0.9, true), (0.9, false)]), [0.5, 0.5]);
        assert_eq!(accuracy_at_coverage(&outcomes, 0.67), 0.5);
        assert!(aurc(&[]).is_nan());
    }
}
