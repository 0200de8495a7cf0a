//! A paired bootstrap: two methods' answers to the same questions. What makes a question hard for
//! both cancels out.

use std::collections::HashMap;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::calibration::{BinEdge, expected_calibration_error};
use super::{Bootstrap, Estimate, Outcome, brier, centred, negative_log_likelihood};
use crate::prediction::ScoredRow;

/// Difference between two methods in a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Difference {
    /// One method's value minus the other's, with its 95 % interval.
    pub estimate: Estimate,
    /// Two-sided: twice the smaller share of resamples on one side of zero. None without resamples.
    pub p_value: Option<f64>,
}

/// The differences in accuracy, ECE, NLL and Brier score, in this order.
pub type Differences = [Difference; 4];

/// Place of the ECE in [`Differences`].
const ECE: usize = 1;

/// A difference without what the rounding of sums leaves of none.
fn exact(difference: f64) -> f64 {
    match difference.abs() < 1e-12 {
        true => 0.0,
        false => difference,
    }
}

/// What the figures of a question are made from.
struct Facts {
    outcome: Outcome,
    /// Right or not, NLL, Brier score.
    means: [f64; 3],
}

impl Facts {
    fn of(row: &ScoredRow) -> Self {
        let right = f64::from(u8::from(row.correct()));
        Self {
            outcome: (row.confidence(), row.correct()),
            means: [right, negative_log_likelihood(row), brier(row)],
        }
    }
}

/// Differences in the figures of [`Differences`], on all questions and on each resample of them.
#[derive(Debug, Clone)]
pub struct Gaps {
    whole: [f64; 4],
    resampled: Vec<[f64; 4]>,
}

impl Gaps {
    /// Of `other` minus `first`. Each is a list of replicates (seeds); a figure is the mean over
    /// them. Questions are resampled, each with its answers of all replicates that were asked it.
    pub fn of(
        first: &[Vec<ScoredRow>],
        other: &[Vec<ScoredRow>],
        bins: usize,
        bootstrap: Bootstrap,
    ) -> Self {
        let mut places: HashMap<&str, usize> = HashMap::new();
        for row in first.iter().chain(other).flatten() {
            let next = places.len();
            places.entry(&row.id).or_insert(next);
        }
        let n = places.len();
        let facts = |runs: &[Vec<ScoredRow>]| -> Vec<Vec<Option<Facts>>> {
            let of = |rows: &Vec<ScoredRow>| {
                let mut facts: Vec<Option<Facts>> = (0..n).map(|_| None).collect();
                for row in rows {
                    facts[places[&*row.id]] = Some(Facts::of(row));
                }
                facts
            };
            runs.iter().map(of).collect()
        };
        let (first, other) = (facts(first), facts(other));
        let mut rng = ChaCha8Rng::seed_from_u64(bootstrap.seed);
        let gap = |chosen: &[usize]| -> [f64; 4] {
            let [a, b] = [&first, &other].map(|runs| figures(runs, chosen, bins));
            std::array::from_fn(|i| b[i] - a[i])
        };
        let whole = gap(&(0..n).collect::<Vec<_>>());
        let resampled = (0..bootstrap.resamples)
            .map(|_| {
                let chosen: Vec<usize> = (0..n).map(|_| rng.random_range(0..n)).collect();
                gap(&chosen)
            })
            .collect();
        Self { whole, resampled }
    }

    /// The mean of several sets of questions, each of them resampled by itself; none of no set.
    pub fn mean(sets: &[Self]) -> Option<Self> {
        let resamples = sets.iter().map(|set| set.resampled.len()).min()?;
        let mean = |gaps: &dyn Fn(usize, &Self) -> [f64; 4]| -> [f64; 4] {
            let all: Vec<_> = sets
                .iter()
                .enumerate()
                .map(|(k, set)| gaps(k, set))
                .collect();
            std::array::from_fn(|i| all.iter().map(|gaps| gaps[i]).sum::<f64>() / all.len() as f64)
        };
        Some(Self {
            whole: mean(&|_, set| set.whole),
            // Sets of one size drew the same places: a resample meets another draw's of each.
            resampled: (0..resamples)
                .map(|r| mean(&|k, set| set.resampled[(r + k) % resamples]))
                .collect(),
        })
    }

    /// The differences with their intervals.
    ///
    /// Where methods differ in few answers, many resamples hold none of these: they have no
    /// difference, which is on both sides of zero. [`centred`] would move them all to one, and
    /// means need no centring. A calibration error does.
    pub fn differences(&self) -> Differences {
        std::array::from_fn(|i| {
            let found: Vec<f64> = self.resampled.iter().map(|gaps| exact(gaps[i])).collect();
            let mut values = found.clone();
            if i == ECE {
                values = centred(Some(self.whole[i]), values);
                let same = values.iter_mut().zip(&found).filter(|(_, v)| **v == 0.0);
                same.for_each(|(value, _)| *value = 0.0);
            }
            let share = |keep: &dyn Fn(f64) -> bool| {
                let kept = values.iter().filter(|v| keep(**v)).count();
                // One more of each: a share of resamples is never 0.
                (kept + 1) as f64 / (values.len() + 1) as f64
            };
            // What has no value differs from nothing.
            let p_value = match self.whole[i].is_finite() {
                true => (2.0 * share(&|v| v <= 0.0).min(share(&|v| v >= 0.0))).min(1.0),
                false => 1.0,
            };
            Difference {
                p_value: (!values.is_empty()).then_some(p_value),
                estimate: Estimate::with_interval(Some(exact(self.whole[i])), values),
            }
        })
    }
}

/// [`Gaps::of`], with their intervals.
pub fn differences(
    first: &[Vec<ScoredRow>],
    other: &[Vec<ScoredRow>],
    bins: usize,
    bootstrap: Bootstrap,
) -> Differences {
    Gaps::of(first, other, bins, bootstrap).differences()
}

/// Accuracy, ECE, NLL and Brier score of the chosen questions, mean over replicates. One that was
/// asked none of them does not count.
fn figures(runs: &[Vec<Option<Facts>>], chosen: &[usize], bins: usize) -> [f64; 4] {
    let (mut sums, mut count) = ([0.0; 4], 0.0);
    for facts in runs {
        let asked: Vec<&Facts> = chosen.iter().filter_map(|i| facts[*i].as_ref()).collect();
        if asked.is_empty() {
            continue;
        }
        count += 1.0;
        let outcomes: Vec<Outcome> = asked.iter().map(|facts| facts.outcome).collect();
        sums[ECE] += expected_calibration_error(&outcomes, bins, BinEdge::Right);
        for (to, from) in [(0, 0), (2, 1), (3, 2)] {
            let sum: f64 = asked.iter().map(|facts| facts.means[from]).sum();
            sums[to] += sum / asked.len() as f64;
        }
    }
    sums.map(|sum| sum / count)
}

/// Each run's rows for the questions that all runs have, in the order of the first.
pub fn common(answers: Vec<Vec<ScoredRow>>) -> Vec<Vec<ScoredRow>> {
    let mut by_id: Vec<HashMap<String, ScoredRow>> = answers
        .iter()
        .map(|rows| rows.iter().map(|r| (r.id.clone(), r.clone())).collect())
        .collect();
    let first = answers.first().map_or(&[][..], Vec::as_slice);
    let order: Vec<String> = first
        .iter()
        .map(|row| row.id.clone())
        .filter(|id| by_id.iter().all(|rows| rows.contains_key(id)))
        .collect();
    by_id
        .iter_mut()
        .map(|rows| order.iter().filter_map(|id| rows.remove(id)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn rows(n: usize, right: impl Fn(usize) -> bool, confidence: f64) -> Vec<ScoredRow> {
        (0..n)
            .map(|i| {
                let label = usize::from(!right(i));
                let p = [confidence, 1.0 - confidence];
                ScoredRow::from_probabilities(i.to_string(), label, &p, None)
            })
            .collect()
    }

    const BOOTSTRAP: Bootstrap = Bootstrap {
        resamples: 500,
        seed: 1,
    };

    #[test]
    fn a_paired_test_sees_a_small_difference_on_the_same_questions() {
        let first = [rows(200, |i| i % 2 == 0, 0.6)];
        let better = [rows(200, |i| i % 2 == 0 || i % 20 == 1, 0.6)];
        let [accuracy, ..] = differences(&first, &better, 15, BOOTSTRAP);
        assert!((accuracy.estimate.value.unwrap() - 0.05).abs() < 1e-12);
        assert!(accuracy.p_value.unwrap() < 0.05 && accuracy.estimate.low.unwrap() > 0.0);
        let [same, ..] = differences(&first, &first, 15, BOOTSTRAP);
        assert_eq!((same.estimate.value, same.p_value), (Some(0.0), Some(1.0)));
    }

    #[test]
    fn what_was_asked_nothing_differs_in_nothing() {
        let first = [rows(20, |i| i % 2 == 0, 0.6)];
        for difference in differences(&first, &[Vec::new()], 15, BOOTSTRAP) {
            let value = difference.estimate.value.filter(|value| value.is_finite());
            assert_eq!((value, difference.p_value), (None, Some(1.0)));
        }
    }

    #[test]
    fn without_resamples_nothing_is_tested() {
        let first = [rows(20, |i| i % 2 == 0, 0.6)];
        let other = [rows(20, |_| true, 0.6)];
        let none = Bootstrap {
            resamples: 0,
            ..BOOTSTRAP
        };
        let [accuracy, ..] = differences(&first, &other, 15, none);
        assert_eq!(
            (accuracy.estimate.value, accuracy.p_value),
            (Some(0.5), None)
        );
    }

    /// One answer of 400 tells nothing, whichever it is.
    #[test]
    fn a_difference_in_one_question_is_none() {
        let first = [rows(400, |i| i % 3 == 0, 0.6)];
        for changed in [1, 20, 50, 101, 203, 308, 350, 398] {
            let other = [rows(400, |i| i % 3 == 0 || i == changed, 0.6)];
            for difference in differences(&first, &other, 15, BOOTSTRAP) {
                let Estimate { low, high, .. } = difference.estimate;
                assert!(
                    difference.p_value.unwrap() > 0.5,
                    "{changed}: {difference:?}"
                );
                assert!(
                    low.unwrap() <= 0.0 && high.unwrap() >= 0.0,
                    "{difference:?}"
                );
            }
        }
    }

    #[test]
    fn several_seeds_are_averaged_before_they_are_compared() {
        // Right for 50 % and 100 % against 50 %: 25 points; confidence 0.6: ECE 10 and 40 against
        // 10.
        let first = [rows(100, |i| i % 2 == 0, 0.6)];
        let two = [rows(100, |i| i % 2 == 0, 0.6), rows(100, |_| true, 0.6)];
        let [accuracy, ece, nll, brier] = differences(&first, &two, 15, BOOTSTRAP);
        let value = |d: Difference| d.estimate.value.unwrap();
        assert!((value(accuracy) - 0.25).abs() < 1e-12);
        assert!((value(ece) - 0.15).abs() < 1e-12);
        let half = (0.4f64.ln() - 0.6f64.ln()) / 4.0;
        assert!((value(nll) - half).abs() < 1e-12);
        assert!((value(brier) - (2.0 * 0.16 - 2.0 * 0.36) / 4.0).abs() < 1e-12);
    }

    /// A question that two seeds were asked is one draw: its answers are no independent ones.
    #[test]
    fn seeds_with_the_same_questions_are_no_surer_than_one() {
        let first = rows(200, |i| i % 2 == 0, 0.6);
        let better = rows(200, |i| i % 2 == 0 || i % 20 == 1, 0.6);
        let one = differences(from_ref(&first), from_ref(&better), 15, BOOTSTRAP);
        let halves = |rows: &[ScoredRow]| [rows[..150].to_vec(), rows[50..].to_vec()];
        let two = differences(&halves(&first), &halves(&better), 15, BOOTSTRAP);
        let width = |found: &Differences| {
            let Estimate { low, high, .. } = found[0].estimate;
            high.unwrap() - low.unwrap()
        };
        let ratio = width(&two) / width(&one);
        assert!((0.9..1.3).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_mean_over_sets_is_surer_than_one_of_them() {
        let first = [rows(200, |i| i % 2 == 0, 0.6)];
        let better = [rows(200, |i| i % 2 == 0 || i % 20 == 1, 0.6)];
        let gaps = |other| Gaps::of(&first, other, 15, BOOTSTRAP);
        let [plus, none] = [gaps(&better), gaps(&first)];
        let half = Gaps::mean(&[plus.clone(), none]).unwrap().differences()[0];
        assert!((half.estimate.value.unwrap() - 0.025).abs() < 1e-12);
        let width = |gaps: &Gaps| {
            let Estimate { low, high, .. } = gaps.differences()[0].estimate;
            high.unwrap() - low.unwrap()
        };
        // Four sets of independent draws: half as wide.
        let four = Gaps::mean(&vec![plus.clone(); 4]).unwrap();
        let ratio = width(&four) / width(&plus);
        assert!((0.4..0.62).contains(&ratio), "{ratio}");
        assert!(Gaps::mean(&[]).is_none());
    }

    #[test]
    fn only_common_questions_count_in_one_order() {
        let mut second = rows(5, |_| true, 0.7);
        second.reverse();
        second.remove(0);
        let found = common(vec![rows(5, |_| true, 0.6), second]);
        let ids = |rows: &[ScoredRow]| rows.iter().map(|r| r.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&found[0]), ["0", "1", "2", "3"]);
        assert_eq!(ids(&found[0]), ids(&found[1]));
    }
}
