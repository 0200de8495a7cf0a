//! The calibration that answers are given with: as much as held-out questions bear, and how sure
//! that is.
//!
//! Three ways stand to choose: the confidence as the model states it, temperature scaling, and the
//! calibrator of confidence and FLU. A way that changes the confidence is taken only where, in
//! five-fold cross-validation stratified by right and wrong, its log loss of being right is below
//! the stated confidence's by more than one standard error. The temperature has a prior around 1,
//! so that a few questions move it little.
//!
//! The interval of a confidence is that of a Bayesian logistic regression of being right on the
//! stated confidence and FLU, with one pseudo-observation for "as stated", widened to hold the
//! confidence itself. It is wide where held-out questions are few, whichever way was chosen.

use serde::{Deserialize, Serialize};

use super::PostHoc;
use super::confidence::{Confidence, Regression};
use super::temperature::Temperature;
use crate::prediction::ScoredRow;

/// Fewer held-out questions than this say little of a confidence.
pub const FEW: usize = 100;

const FOLDS: usize = 5;
/// Standard errors by which a calibrator must be better than none.
const ERRORS: f64 = 1.0;
/// Pull of the interval's regression to the confidence as stated, in pseudo-observations.
const PULL: f64 = 1.0;
/// Normal quantile of a 95 % interval.
const QUANTILE: f64 = 1.96;

/// How the confidence of an answer comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// As the model states it: held-out questions support no change.
    AsStated,
    /// Temperature scaling.
    Temperature,
    /// The calibrator of softmax confidence and FLU; without routers, of the confidence alone.
    ConfidenceWithFlu,
}

impl Way {
    /// The way in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::AsStated => "as the model states it",
            Self::Temperature => "by temperature scaling",
            Self::ConfidenceWithFlu => "by the calibrator of confidence and FLU",
        }
    }
}

/// The chosen calibration, and what it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trust {
    /// How the confidence comes about.
    pub way: Way,
    /// The calibrator; one that changes nothing where the confidence is as stated.
    pub calibrator: Confidence,
    /// Number of held-out questions.
    pub calibrated_on: usize,
    /// Mean log loss of being right over questions left out of the fit: as stated, and by the way
    /// that was chosen. Absent where the questions are too few to leave any out.
    pub left_out: Option<[f64; 2]>,
    /// The regression that intervals come from.
    regression: Regression,
}

/// How far an answer can be trusted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Trusted {
    /// Probability that the answer is right.
    pub confidence: f64,
    /// 95 % interval of that probability; absent without held-out questions.
    pub interval: Option<[f64; 2]>,
    /// What the calibrator says where that is below chance: the confidence is then one in the
    /// number of choices.
    pub below_chance: Option<f64>,
}

/// Log loss of being right.
fn loss(probability: f64, right: bool) -> f64 {
    let p = probability.clamp(1e-6, 1.0 - 1e-6);
    -(if right { p } else { 1.0 - p }).ln()
}

/// Temperature scaling under a prior around 1.
fn temperature(rows: &[ScoredRow]) -> Confidence {
    let weighted: Vec<(f64, &ScoredRow)> = rows.iter().map(|row| (1.0, row)).collect();
    Confidence::scaling(Temperature::most_probable(&weighted))
}

fn fit(way: Way, rows: &[ScoredRow]) -> Confidence {
    match way {
        Way::AsStated => Confidence::scaling(Temperature::ONE),
        Way::Temperature => temperature(rows),
        Way::ConfidenceWithFlu => Confidence::after(temperature(rows).temperature, rows),
    }
}

/// The fold of each row: right and wrong ones take turns, each on their own.
fn folds(rows: &[ScoredRow]) -> Vec<usize> {
    let mut seen = [0; 2];
    rows.iter()
        .map(|row| {
            let count = &mut seen[usize::from(row.correct())];
            *count += 1;
            // The wrong ones begin elsewhere, so that folds differ little in size.
            (*count + 2 * usize::from(row.correct())) % FOLDS
        })
        .collect()
}

/// The log loss of each row by a calibrator that has not seen it.
fn left_out(way: Way, rows: &[ScoredRow], folds: &[usize]) -> Vec<f64> {
    let mut losses = vec![0.0; rows.len()];
    for fold in 0..FOLDS {
        let kept: Vec<ScoredRow> = rows
            .iter()
            .zip(folds)
            .filter(|(_, own)| **own != fold)
            .map(|(row, _)| row.clone())
            .collect();
        let calibrator = fit(way, &kept);
        for (place, row) in rows.iter().enumerate() {
            if folds[place] == fold {
                losses[place] = loss(calibrator.probability(row), row.correct());
            }
        }
    }
    losses
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Whether losses are below others by more than chance would have them.
fn is_better(losses: &[f64], than: &[f64]) -> bool {
    let gains: Vec<f64> = than.iter().zip(losses).map(|(a, b)| a - b).collect();
    let n = gains.len() as f64;
    let gain = mean(&gains);
    let squares: f64 = gains.iter().map(|g| (g - gain).powi(2)).sum();
    gain > ERRORS * (squares / (n - 1.0) / n).sqrt()
}

impl Trust {
    /// Chooses and fits on held-out rows.
    pub fn fit(held_out: &[ScoredRow]) -> Self {
        let mut chosen = Way::AsStated;
        let mut losses = None;
        if held_out.len() >= 2 * FOLDS {
            let folds = folds(held_out);
            let stated = left_out(Way::AsStated, held_out, &folds);
            let mut best = mean(&stated);
            for way in [Way::Temperature, Way::ConfidenceWithFlu] {
                let found = left_out(way, held_out, &folds);
                if mean(&found) < best && is_better(&found, &stated) {
                    (chosen, best) = (way, mean(&found));
                }
            }
            losses = Some([mean(&stated), best]);
        }
        Self {
            way: chosen,
            calibrator: fit(chosen, held_out),
            calibrated_on: held_out.len(),
            left_out: losses,
            regression: Regression::fit(held_out, PULL),
        }
    }

    /// How far the answer of a row can be trusted.
    pub fn of(&self, row: &ScoredRow) -> Trusted {
        let found = match self.way {
            Way::AsStated | Way::Temperature => self.apply(row).confidence(),
            Way::ConfidenceWithFlu => self.calibrator.probability(row),
        };
        let chance = match row.written {
            Some(_) => 0.0,
            None => 1.0 / row.probabilities.len() as f64,
        };
        let confidence = found.max(chance);
        // A probability that was rounded is not below chance.
        let below = chance - found > 1e-6;
        Trusted {
            confidence,
            interval: self.interval(row, confidence),
            below_chance: below.then_some(found),
        }
    }

    /// The 95 % interval of a row's probability of being right, which holds `confidence`. None
    /// without held-out questions.
    pub fn interval(&self, row: &ScoredRow, confidence: f64) -> Option<[f64; 2]> {
        (self.calibrated_on > 0).then(|| {
            let [low, high] = self.regression.interval(row, QUANTILE);
            [low.min(confidence), high.max(confidence)]
        })
    }

    /// The row with the confidence that its answer is given with.
    pub fn apply(&self, row: &ScoredRow) -> ScoredRow {
        match self.way {
            Way::AsStated => row.clone(),
            Way::Temperature => self.calibrator.temperature.apply(row),
            Way::ConfidenceWithFlu => self.calibrator.apply(row),
        }
    }

    /// What the calibration rests on, in a sentence; few questions are said to be few.
    pub fn sentence(&self) -> String {
        let n = self.calibrated_on;
        // Exactly 0 where no row has FLU, as without routers.
        let way = match self.way {
            Way::ConfidenceWithFlu if self.calibrator.weights[2] == 0.0 => {
                "by the calibrator of the stated confidence"
            }
            way => way.words(),
        };
        let evidence = match self.left_out {
            None => String::new(),
            Some([stated, _]) if self.way == Way::AsStated => {
                format!(": no calibrator beat it, cross-validated (log loss {stated:.3})")
            }
            Some([stated, found]) => {
                format!(": cross-validated log loss {found:.3}, {stated:.3} as stated")
            }
        };
        let few = match n < FEW {
            true => format!(
                " {n} questions say little: hold out at least {FEW} (data.held_out_fraction, data.custom.held_out), and look at the interval."
            ),
            false => String::new(),
        };
        format!("Confidence {way}, on {n} held-out questions{evidence}.{few}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Answers among `choices` at stated probabilities around `stated`, right with `right` of
    /// them; FLU says nothing.
    fn draw(
        n: usize,
        choices: usize,
        right: impl Fn(f64) -> f64,
        stated: f64,
        random: &mut ChaCha8Rng,
    ) -> Vec<ScoredRow> {
        (0..n)
            .map(|i| {
                let spread = 0.2 * (random.random::<f64>() - 0.5);
                let p = (stated + spread).clamp(1.0 / choices as f64 + 0.01, 0.98);
                let mut probabilities = vec![(1.0 - p) / (choices - 1) as f64; choices];
                probabilities[0] = p;
                let label = usize::from(!random.random_bool(right(p)));
                let flu = Some(0.3 + 0.2 * random.random::<f64>());
                ScoredRow::from_probabilities(i.to_string(), label, &probabilities, flu)
            })
            .collect()
    }

    fn log_loss(rows: &[ScoredRow], probability: impl Fn(&ScoredRow) -> f64) -> f64 {
        let losses = rows.iter().map(|row| loss(probability(row), row.correct()));
        losses.sum::<f64>() / rows.len() as f64
    }

    #[test]
    fn what_is_calibrated_is_left_as_it_is() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut kept = 0;
        for _ in 0..40 {
            let rows = draw(60, 4, |p| p, 0.7, &mut random);
            let trust = Trust::fit(&rows);
            kept += usize::from(trust.way == Way::AsStated);
            if trust.way == Way::AsStated {
                let row = &rows[0];
                assert!((trust.of(row).confidence - row.confidence()).abs() < 1e-9);
                assert_eq!(&trust.apply(row), row);
            }
        }
        assert!(kept >= 32, "{kept} of 40");
    }

    #[test]
    fn overconfidence_is_mended_where_questions_show_it() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let right = |p: f64| p - 0.25;
        let trust = Trust::fit(&draw(400, 4, right, 0.85, &mut random));
        assert_ne!(trust.way, Way::AsStated);
        let test = draw(2000, 4, right, 0.85, &mut random);
        let mean = mean(
            &test
                .iter()
                .map(|r| trust.of(r).confidence)
                .collect::<Vec<_>>(),
        );
        assert!((mean - 0.6).abs() < 0.05, "{mean}");
        let [stated, found] = trust.left_out.unwrap();
        assert!(found < stated);
        assert!(trust.sentence().contains("on 400 held-out questions"));
        assert!(!trust.sentence().contains("say little"));
    }

    #[test]
    fn thirty_questions_make_no_confidence_worse() {
        // A model at chance that states 74 %, and one that is calibrated: the calibrator of
        // confidence and FLU alone is misled by thirty questions more often than it helps.
        for (right, stated) in [(0.2, 0.74), (0.74, 0.74), (0.55, 0.6)] {
            let mut random = ChaCha8Rng::seed_from_u64(3);
            let (mut as_stated, mut plain, mut trusted) = (0.0, 0.0, 0.0);
            let mut above = 0;
            for _ in 0..60 {
                let rows = draw(30, 5, |_| right, stated, &mut random);
                let test = draw(300, 5, |_| right, stated, &mut random);
                let trust = Trust::fit(&rows);
                let confidence = Confidence::fit(&rows);
                as_stated += log_loss(&test, ScoredRow::confidence) / 60.0;
                plain += log_loss(&test, |row| confidence.probability(row)) / 60.0;
                trusted += log_loss(&test, |row| trust.of(row).confidence) / 60.0;
                above += usize::from(test.iter().any(|row| trust.of(row).confidence > 0.9));
                assert!(
                    trust
                        .left_out
                        .is_some_and(|[stated, found]| found <= stated)
                );
            }
            let least = as_stated.min(plain);
            assert!(
                trusted <= least + 0.02,
                "{right}: {trusted} of {as_stated} as stated, {plain} calibrated"
            );
            assert!(right > 0.5 || above == 0, "{above} of 60 trusted at chance");
        }
    }

    #[test]
    fn the_interval_holds_the_truth_and_narrows() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let right = |p: f64| p - 0.15;
        let mut widths = Vec::new();
        for n in [30, 100, 1000] {
            let (mut held, mut width) = (0, 0.0);
            for _ in 0..100 {
                let trust = Trust::fit(&draw(n, 4, right, 0.75, &mut random));
                let row = &draw(1, 4, right, 0.75, &mut random)[0];
                let trusted = trust.of(row);
                let [low, high] = trusted.interval.unwrap();
                let truth = right(row.confidence());
                held += usize::from((low..=high).contains(&truth));
                width += (high - low) / 100.0;
                assert!((low..=high).contains(&trusted.confidence));
            }
            assert!(held >= 90, "{held} of 100 with {n} questions");
            widths.push(width);
        }
        assert!(widths[0] > 0.2 && widths[2] < 0.15, "{widths:?}");
        assert!(widths.is_sorted_by(|a, b| a > b), "{widths:?}");
    }

    #[test]
    fn below_chance_is_said_and_no_questions_give_no_interval() {
        // Of answers stated at 95 %, one in ten is right, of two choices.
        let rows: Vec<ScoredRow> = (0..200)
            .map(|i| {
                let label = usize::from(i % 10 != 0);
                ScoredRow::from_probabilities(i.to_string(), label, &[0.95, 0.05], Some(0.5))
            })
            .collect();
        let trust = Trust::fit(&rows);
        assert_eq!(trust.way, Way::ConfidenceWithFlu, "{trust:?}");
        // FLU that is the same everywhere says nothing.
        let said = trust.sentence();
        assert!(
            said.contains("by the calibrator of the stated confidence"),
            "{said}"
        );
        let trusted = trust.of(&rows[0]);
        assert_eq!(trusted.confidence, 0.5);
        assert!(trusted.below_chance.is_some_and(|p| p < 0.2), "{trusted:?}");
        let none = Trust::fit(&[]);
        assert_eq!(
            (none.way, none.of(&rows[0]).interval),
            (Way::AsStated, None)
        );
        let few = Trust::fit(&rows[..9]);
        assert_eq!((few.way, few.left_out), (Way::AsStated, None));
        assert!(few.sentence().contains("9 questions say little"));
    }
}
