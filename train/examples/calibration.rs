//! How far an over-confident model's confidence can be mended:
//! `cargo build --workspace --examples`, then `target/debug/examples/calibration`.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use train::metric::{Bootstrap, Metrics};
use train::posthoc::PostHoc;
use train::posthoc::abstention::{Abstention, Promise};
use train::posthoc::conformal::{Conformal, Score};
use train::posthoc::temperature::Temperature;
use train::prediction::ScoredRow;

/// Questions of two choices from a model whose logits are three times too large.
fn questions(count: usize, rng: &mut ChaCha8Rng) -> Vec<ScoredRow> {
    (0..count)
        .map(|number| {
            let margin: f64 = rng.random_range(0.0..2.5);
            let right = rng.random_bool(1.0 / (1.0 + (-margin).exp()));
            let plain = ScoredRow {
                id: number.to_string(),
                label: usize::from(!right),
                logits: vec![3.0 * margin, 0.0],
                probabilities: Vec::new(),
                flu: None,
                agreement: None,
                written: None,
            };
            Temperature { temperature: 1.0 }.apply(&plain)
        })
        .collect()
}

fn main() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (held_out, test) = (questions(500, &mut rng), questions(2000, &mut rng));
    let bootstrap = Bootstrap {
        resamples: 200,
        seed: 0,
    };
    let ece = |rows: &[ScoredRow]| {
        let found = Metrics::of(rows, 15, bootstrap).expected_calibration_error;
        let percent = |value: Option<f64>| 100.0 * value.unwrap_or(f64::NAN);
        format!(
            "{:.1} % [{:.1}, {:.1}]",
            percent(found.value),
            percent(found.low),
            percent(found.high)
        )
    };
    let temperature = Temperature::fit(&held_out);
    let mended: Vec<ScoredRow> = test.iter().map(|row| temperature.apply(row)).collect();
    println!("ECE as it is           {}", ece(&test));
    println!(
        "ECE at T = {:.2}        {}",
        temperature.temperature,
        ece(&mended)
    );

    let sets = Conformal::fit(&held_out, Score::Lac, 0.1).metrics(&test);
    println!(
        "conformal sets at 90 %: coverage {:.3}, size {:.2}",
        sets.coverage.unwrap_or(0.0),
        sets.set_size.unwrap_or(0.0)
    );

    let promise = Promise::Risk {
        target: 0.2,
        delta: 0.05,
    };
    match Abstention::fit(&held_out, promise) {
        Ok(rule) => {
            let given: Vec<&ScoredRow> = test
                .iter()
                .filter(|row| rule.answers(row.confidence()))
                .collect();
            let wrong = given.iter().filter(|row| !row.correct()).count();
            println!(
                "at most 20 % wrong: answers {:.0} % of the questions, {:.1} % of them wrong",
                100.0 * given.len() as f64 / test.len() as f64,
                100.0 * wrong as f64 / given.len().max(1) as f64
            );
        }
        Err(refusal) => println!("refused: {refusal:?}"),
    }
}
