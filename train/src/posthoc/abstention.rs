//! Answer or abstain: a threshold on confidence, learned on held-out rows, with a guarantee for
//! questions like them.

use serde::{Deserialize, Serialize};

use crate::prediction::ScoredRow;

/// What an abstention threshold promises of the answers that are given.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// At most this share of the answered questions is wrong, with probability at least `1 - delta`
    /// over the held-out rows.
    Risk {
        /// Largest share of wrong answers among those given, in `(0, 1)`.
        target: f64,
        /// Probability with which the promise may fail, in `(0, 1)`.
        delta: f64,
    },
    /// At least this share of questions is answered, on average over held-out rows.
    Coverage {
        /// Share of questions that are answered, in `(0, 1)`.
        target: f64,
    },
}

/// A fitted threshold: answers of less confidence are not given.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Abstention {
    /// Least confidence of an answer that is given.
    pub threshold: f64,
    /// Share of the held-out rows that the threshold answers.
    pub held_out_coverage: f64,
    /// Share of wrong answers among the answered held-out rows; absent where none is answered.
    pub held_out_risk: Option<f64>,
    /// Promise that the threshold was fitted for.
    pub promise: Promise,
}

/// Why no threshold keeps the promise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Refusal {
    /// So few held-out rows would prove nothing even without a single error.
    TooFew {
        /// Held-out rows needed, all of them right.
        needed: usize,
    },
    /// The most confident held-out answers are wrong too often.
    TooWrong,
}

/// How often a promise of a table may fail.
pub const DELTA: f64 = 0.05;

/// Columns of the table of promises.
pub const PROMISES: [&str; 4] = [
    "promised risk, %",
    "answered, %",
    "wrong of those, %",
    "from a probability of",
];

impl Abstention {
    /// The share that is promised: of wrong answers, or of answered questions.
    pub fn target(&self) -> f64 {
        match self.promise {
            Promise::Risk { target, .. } | Promise::Coverage { target } => target,
        }
    }

    /// The cells of a promise below [`PROMISES`].
    pub fn cells(&self) -> [String; 4] {
        let percent = |share: f64| format!("{:.1}", 100.0 * share);
        [
            match self.promise {
                Promise::Risk { target, .. } => percent(target),
                Promise::Coverage { .. } => "–".into(),
            },
            percent(self.held_out_coverage),
            self.held_out_risk.map_or("–".into(), percent),
            format!("{:.3}", self.threshold),
        ]
    }

    /// Fits the threshold. For a risk: the largest of ten numbers of answered rows, fixed
    /// beforehand, whose Clopper-Pearson bound keeps the target, `delta` shared among them (as
    /// Geifman and El-Yaniv 2017, with fixed steps instead of a search). For a coverage: the
    /// conformal quantile of the confidences.
    ///
    /// # Errors
    /// A promise that these rows cannot support.
    pub fn fit(held_out: &[ScoredRow], promise: Promise) -> Result<Self, Refusal> {
        let mut rows: Vec<(f64, bool)> = held_out
            .iter()
            .map(|row| (row.confidence(), !row.correct()))
            .collect();
        rows.sort_by(|a, b| b.0.total_cmp(&a.0));
        let threshold = match promise {
            Promise::Risk { target, delta } => risk_threshold(&rows, target, delta)?,
            Promise::Coverage { target } => coverage_threshold(&rows, target),
        };
        let answered = rows.iter().filter(|(c, _)| *c >= threshold).count();
        let wrong = rows.iter().filter(|(c, w)| *c >= threshold && *w).count();
        Ok(Self {
            threshold,
            held_out_coverage: answered as f64 / rows.len().max(1) as f64,
            held_out_risk: (answered > 0).then(|| wrong as f64 / answered as f64),
            promise,
        })
    }

    /// What can be promised on these rows: the lowest risk that some threshold keeps, and usual
    /// ones above it up to the first that answers everything. None where no risk up to one half
    /// can be promised.
    ///
    /// Each line is what [`Self::fit`] gives for its risk and holds by itself with probability
    /// `1 - delta`. The lowest is chosen by the rows themselves. In draws of 60, 200 and 600 rows,
    /// with confidence that tells nothing and with confidence that is right, its promise failed in
    /// at most 1.5 % of 600 for a `delta` of 5 %.
    pub fn promises(held_out: &[ScoredRow], delta: f64) -> Vec<Self> {
        const USUAL: [f64; 6] = [0.01, 0.05, 0.1, 0.15, 0.2, 0.3];
        /// Risks are tried in steps of half a percent.
        const STEPS: usize = 100;
        let fit = |target: f64| Self::fit(held_out, Promise::Risk { target, delta }).ok();
        let mut risks = (1..=STEPS).map(|step| step as f64 / (2 * STEPS) as f64);
        let lowest = risks.find_map(|target| Some((target, fit(target)?)));
        let Some((least, lowest)) = lowest else {
            return Vec::new();
        };
        let mut table = vec![lowest];
        for target in USUAL.into_iter().filter(|target| *target > least) {
            if table.iter().any(|line| line.held_out_coverage >= 1.0) {
                break;
            }
            table.extend(fit(target));
        }
        table
    }

    /// Whether an answer of some confidence is given.
    pub fn answers(&self, confidence: f64) -> bool {
        // The threshold was read from a file, shortest decimals of f32.
        confidence as f32 >= self.threshold as f32
    }
}

/// Numbers of answered rows that are tried, evenly from the fewest that could prove the risk to all
/// of them.
const RANKS: usize = 10;

/// `rows`: confidence and whether wrong, most confident first.
fn risk_threshold(rows: &[(f64, bool)], target: f64, delta: f64) -> Result<f64, Refusal> {
    let share = delta / RANKS as f64;
    // Without an error the bound is `1 - share^(1 / n)`; the row at the threshold itself proves
    // nothing.
    let needed = (share.ln() / (-target).ln_1p()).ceil() as usize;
    let needed = needed.saturating_add(1);
    let n = rows.len();
    if n < needed {
        return Err(Refusal::TooFew { needed });
    }
    let holds = |rank: &usize| {
        let threshold = rows[rank - 1].0;
        let bound = |rows: &[(f64, bool)]| {
            let wrong = rows.iter().filter(|(_, wrong)| *wrong).count();
            clopper_pearson_upper(wrong, rows.len(), share)
        };
        // Given the threshold, the rows before it are a sample of those that are answered; rows
        // that tie with it are answered too.
        let ties = rows.iter().take_while(|(c, _)| *c >= threshold).count();
        bound(&rows[..rank - 1]).max(bound(&rows[..ties])) <= target
    };
    (0..RANKS)
        .rev()
        .map(|i| needed + i * (n - needed) / (RANKS - 1))
        .find(holds)
        .map(|rank| rows[rank - 1].0)
        .ok_or(Refusal::TooWrong)
}

/// The `floor((n + 1)(1 - target))`-th smallest confidence: a new one is at least as large with
/// probability `target`.
fn coverage_threshold(rows: &[(f64, bool)], target: f64) -> f64 {
    // 100 (1 - 0.8) is a little less than 20.
    let below = ((rows.len() + 1) as f64 * (1.0 - target) + 1e-9).floor() as usize;
    match below.min(rows.len()) {
        0 => 0.0,
        below => rows[rows.len() - below].0,
    }
}

/// The largest error rate under which so few errors in n rows still happen with probability
/// `delta`.
pub fn clopper_pearson_upper(errors: usize, n: usize, delta: f64) -> f64 {
    if errors >= n {
        return 1.0;
    }
    // P(at most `errors`) falls as the rate rises.
    let (mut low, mut high) = (0.0f64, 1.0f64);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        match at_most(errors, n, middle) > delta {
            true => low = middle,
            false => high = middle,
        }
    }
    high
}

/// The probability of at most `k` successes in `n` trials.
fn at_most(k: usize, n: usize, p: f64) -> f64 {
    let (ln_p, ln_q) = (p.ln(), (-p).ln_1p());
    let mut ln_choose = 0.0;
    let mut total = 0.0;
    for i in 0..=k {
        total += (ln_choose + i as f64 * ln_p + (n - i) as f64 * ln_q).exp();
        ln_choose += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
    }
    total.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn no_number_of_questions_proves_a_risk_of_next_to_nothing() {
        let rows = vec![(0.9, false); 50];
        for target in [1e-5, 1e-17, f64::MIN_POSITIVE] {
            let found = risk_threshold(&rows, target, 0.05);
            assert!(
                matches!(found, Err(Refusal::TooFew { needed }) if needed > 50_000),
                "{found:?}"
            );
        }
    }

    #[test]
    fn the_bound_equals_the_beta_quantile() {
        // scipy.stats.beta.ppf(1 - delta, errors + 1, n - errors)
        for (errors, n, delta, exact) in [
            (0, 10, 0.05, 0.258_865_551),
            (3, 50, 0.05, 0.147_837_176),
            (12, 400, 0.01, 0.056_281_907),
            (10, 10, 0.05, 1.0),
        ] {
            let found = clopper_pearson_upper(errors, n, delta);
            assert!((found - exact).abs() < 1e-6, "{errors} of {n}: {found}");
        }
    }

    fn row(confidence: f64, right: bool) -> ScoredRow {
        let label = usize::from(!right);
        ScoredRow::from_probabilities("q", label, &[confidence, 1.0 - confidence], None)
    }

    /// Confidence uniform in [0.5, 1], right with just that probability.
    fn draw(n: usize, random: &mut ChaCha8Rng) -> Vec<ScoredRow> {
        (0..n)
            .map(|_| {
                let confidence = random.random_range(0.5..1.0);
                row(confidence, random.random_bool(confidence))
            })
            .collect()
    }

    #[test]
    fn the_promised_risk_is_kept_as_often_as_promised() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let promise = Promise::Risk {
            target: 0.15,
            delta: 0.1,
        };
        let (mut kept, mut answered) = (0, 0.0);
        for _ in 0..200 {
            // A refusal breaks no promise.
            let Ok(fitted) = Abstention::fit(&draw(400, &mut random), promise) else {
                kept += 1;
                continue;
            };
            // The true risk above t is the mean of 1 - confidence there.
            let risk = (1.0 - fitted.threshold) / 2.0;
            kept += usize::from(risk <= 0.15);
            answered += fitted.held_out_coverage / 200.0;
        }
        assert!(kept >= 180, "{kept} of 200");
        // Not by answering nothing: the best threshold, 0.7, answers 60 %.
        assert!(answered > 0.2, "{answered}");
    }

    #[test]
    fn what_rows_cannot_prove_is_refused() {
        let risk = |target| Promise::Risk {
            target,
            delta: 0.05,
        };
        let good: Vec<ScoredRow> = (0..50).map(|_| row(0.9, true)).collect();
        let few = Abstention::fit(&good, risk(0.01));
        assert!(matches!(few, Err(Refusal::TooFew { needed }) if needed > 300));
        assert!(Abstention::fit(&good, risk(0.15)).unwrap().answers(0.9));
        // All right, no two alike: as many as are needed suffice.
        let apart = |i: usize| row(0.5 + i as f64 / 200.0, true);
        let distinct: Vec<ScoredRow> = (0..60).map(apart).collect();
        assert!(Abstention::fit(&distinct, risk(0.1)).unwrap().answers(0.5));
        let wrong: Vec<ScoredRow> = (0..100).map(|i| row(0.9, i % 2 == 0)).collect();
        assert_eq!(Abstention::fit(&wrong, risk(0.15)), Err(Refusal::TooWrong));
    }

    #[test]
    fn the_lowest_provable_risk_comes_first_and_each_line_is_what_a_target_gives() {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let rows = draw(600, &mut random);
        let table = Abstention::promises(&rows, 0.05);
        let target = Abstention::target;
        assert!(table.len() > 2, "{table:?}");
        assert!(table.is_sorted_by(|a, b| target(a) < target(b)));
        for line in &table {
            assert_eq!(Abstention::fit(&rows, line.promise), Ok(*line));
            assert!(line.held_out_risk.unwrap() <= target(line));
        }
        let below = Promise::Risk {
            target: target(&table[0]) - 0.005,
            delta: 0.05,
        };
        assert!(Abstention::fit(&rows, below).is_err());
        // A higher risk answers more.
        let coverage = |one: &Abstention| one.held_out_coverage;
        assert!(coverage(&table[table.len() - 1]) > coverage(&table[0]));
        let coin: Vec<ScoredRow> = (0..200).map(|i| row(0.9, i % 2 == 0)).collect();
        assert_eq!(Abstention::promises(&coin, 0.05), []);
    }

    #[test]
    fn the_table_of_promises_equals_one_by_scipy() {
        // 200 distinct confidences; among the less confident half every seventh row is wrong. The
        // same ten numbers of rows with bounds by scipy.stats.beta.ppf(1 - 0.005, k + 1, n - k):
        // 105 rows without an error, 117 with 2, all with 14 (bounds 0.0492, 0.0768, 0.1299).
        let wrong = |i: usize| i >= 100 && i.is_multiple_of(7);
        let rows: Vec<ScoredRow> = (0..200)
            .map(|i| row(0.999 - i as f64 / 500.0, !wrong(i)))
            .collect();
        let found: Vec<[f64; 3]> = Abstention::promises(&rows, 0.05)
            .iter()
            .map(|line| {
                let answered = line.held_out_coverage * 200.0;
                let wrong = line.held_out_risk.unwrap() * answered;
                [line.target(), answered.round(), wrong.round()]
            })
            .collect();
        assert_eq!(
            found,
            [[0.05, 105., 0.], [0.1, 117., 2.], [0.15, 200., 14.]]
        );
    }

    #[test]
    fn the_promised_coverage_is_kept_on_average() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let mut covered = 0.0;
        for _ in 0..300 {
            let promise = Promise::Coverage { target: 0.8 };
            let fitted = Abstention::fit(&draw(99, &mut random), promise).unwrap();
            covered += (1.0 - fitted.threshold) / 0.5 / 300.0;
        }
        assert!((covered - 0.8).abs() < 0.01, "{covered}");
        let all = Abstention::fit(&[], Promise::Coverage { target: 1.0 }).unwrap();
        assert!(all.answers(0.0));
    }
}
