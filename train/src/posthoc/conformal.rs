//! Split conformal prediction: sets of choices that hold the right one with probability at least
//! `1 - alpha`, if held-out and test questions are exchangeable.

use serde::{Deserialize, Serialize};

use crate::prediction::ScoredRow;

/// Measure of how badly a choice fits its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// `1 - p(choice)`: the smallest sets on average (Sadinle et al. 2019).
    Lac,
    /// The probability of the choices at least as probable: adaptive sets (Romano et al. 2020),
    /// without randomisation.
    Aps,
}

/// A fitted threshold on a score: the choices up to it form the set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Conformal {
    /// Score that is compared with the threshold.
    pub score: Score,
    /// Largest score of a choice in the set. Infinite where the held-out set is too small to
    /// promise anything but all choices.
    pub threshold: f64,
}

/// Coverage and size of conformal sets over a test set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ConformalMetrics {
    /// Share of sets that hold the right choice; absent for an empty test set, and for written
    /// answers.
    pub coverage: Option<f64>,
    /// Mean number of choices in a set.
    pub set_size: Option<f64>,
    /// Uncertainty-aware accuracy: accuracy / set size * sqrt(number of choices) (Ye et al. 2024).
    pub uncertainty_aware_accuracy: Option<f64>,
}

impl Score {
    fn of(self, row: &ScoredRow, choice: usize) -> f64 {
        let p = row.probabilities[choice];
        match self {
            Self::Lac => 1.0 - p,
            // What comes after it is left out, so that the last one's is 1 to the last digit: a
            // sum of all would be so only but for rounding, and many may be the last. Ties in the
            // order of the choices.
            Self::Aps => {
                let others = row.probabilities.iter().enumerate();
                let after = others
                    .filter(|(other, q)| **q < p || (**q == p && *other > choice))
                    .map(|(_, q)| q);
                1.0 - after.sum::<f64>()
            }
        }
    }
}

impl Conformal {
    /// Fits the threshold: the `ceil((n + 1)(1 - alpha))`-th smallest score of the right choices.
    pub fn fit(held_out: &[ScoredRow], score: Score, alpha: f64) -> Self {
        let mut scores: Vec<f64> = held_out
            .iter()
            .map(|row| score.of(row, row.label))
            .collect();
        scores.sort_by(f64::total_cmp);
        // A whole product must not become the next rank by rounding.
        let rank = ((scores.len() + 1) as f64 * (1.0 - alpha) - 1e-9).ceil() as usize;
        Self {
            score,
            threshold: scores
                .get(rank.saturating_sub(1))
                .copied()
                .unwrap_or(f64::INFINITY),
        }
    }

    /// The choices of a row that may be right; never empty.
    pub fn set(&self, row: &ScoredRow) -> Vec<usize> {
        let all = 0..row.probabilities.len();
        let kept: Vec<usize> = all
            // In f32, as the model computes: answers in memory and those read from a file alike.
            .filter(|choice| self.score.of(row, *choice) as f32 <= self.threshold as f32)
            .collect();
        match kept.is_empty() {
            true => vec![row.prediction()],
            false => kept,
        }
    }

    /// Coverage and size of the sets over a test set.
    pub fn metrics(&self, test: &[ScoredRow]) -> ConformalMetrics {
        let n = test.len() as f64;
        // What was written has no choices to make a set of.
        let chosen = !test.is_empty() && test.iter().all(|row| row.written.is_none());
        let mean =
            |f: &dyn Fn(&ScoredRow) -> f64| chosen.then(|| test.iter().map(f).sum::<f64>() / n);
        let truth = |holds: bool| f64::from(u8::from(holds));
        let set_size = mean(&|row| self.set(row).len() as f64);
        let accuracy = mean(&|row| truth(row.correct()));
        let choices = mean(&|row| row.probabilities.len() as f64);
        ConformalMetrics {
            coverage: mean(&|row| truth(self.set(row).contains(&row.label))),
            uncertainty_aware_accuracy: accuracy
                .zip(set_size)
                .zip(choices)
                .map(|((accuracy, size), choices)| accuracy / size * choices.sqrt()),
            set_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(probabilities: &[f64], label: usize) -> ScoredRow {
        ScoredRow::from_probabilities("", label, probabilities, None)
    }

    #[test]
    fn hand_computed_thresholds_and_sets() {
        // LAC scores of the right choices: 0.1, 0.2, .., 0.9; with n = 9 and alpha 0.2 the rank is
        // 10 * 0.8 = 8.
        let held_out: Vec<_> = (1..=9)
            .map(|i| row(&[1.0 - 0.1 * f64::from(i), 0.1 * f64::from(i)], 0))
            .collect();
        let lac = Conformal::fit(&held_out, Score::Lac, 0.2);
        assert!((lac.threshold - 0.8).abs() < 1e-12);
        assert_eq!(lac.set(&row(&[0.7, 0.2, 0.1], 0)), [0, 1]);
        let aps = Conformal {
            score: Score::Aps,
            threshold: 0.9,
        };
        assert_eq!(aps.set(&row(&[0.1, 0.7, 0.2], 0)), [1, 2]);
        // The last choice's score is 1, whatever its probabilities add up to.
        let last: Vec<_> = [[0.7, 0.3 - 1e-8], [0.6, 0.4 + 1e-8], [0.8, 0.2]]
            .map(|p| row(&p, 1))
            .into();
        let aps = Conformal::fit(&last, Score::Aps, 0.5);
        assert_eq!(aps.threshold, 1.0);
        assert!(last.iter().all(|row| aps.set(row) == [0, 1]));
        // Too few rows to promise 90 %: every choice.
        let few = Conformal::fit(&held_out[..5], Score::Lac, 0.1);
        assert_eq!(few.set(&row(&[0.98, 0.01, 0.01], 0)), [0, 1, 2]);
        // An empty set becomes the prediction.
        let strict = Conformal {
            score: Score::Lac,
            threshold: 0.1,
        };
        assert_eq!(strict.set(&row(&[0.4, 0.6], 0)), [1]);
    }

    #[test]
    fn coverage_holds_on_exchangeable_rows() {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let mut draw = |n: usize| -> Vec<ScoredRow> {
            (0..n)
                .map(|_| {
                    let raw: Vec<f64> = (0..4).map(|_| -f64::ln(rng.random::<f64>())).collect();
                    let sum: f64 = raw.iter().sum();
                    let p: Vec<f64> = raw.iter().map(|r| r / sum).collect();
                    // Labels ignore the probabilities: coverage must hold for a useless model too.
                    row(&p, rng.random_range(0..4))
                })
                .collect()
        };
        let (held_out, test) = (draw(2000), draw(4000));
        for score in [Score::Lac, Score::Aps] {
            let metrics = Conformal::fit(&held_out, score, 0.1).metrics(&test);
            let coverage = metrics.coverage.unwrap();
            // Without randomisation APS covers more than asked for.
            assert!(coverage > 0.87, "{score:?}: {coverage}");
            assert!(score == Score::Aps || coverage < 0.93, "{coverage}");
            assert!(metrics.set_size.unwrap() > 3.0);
        }
    }
}
