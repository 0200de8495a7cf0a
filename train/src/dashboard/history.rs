//! What a training's metrics log says of its earlier steps, for curves that begin at the first.

use std::borrow::Cow;

use super::state::{Earlier, HeldOutPoint, TrainPoint};
use crate::tracker::MetricsLine;

/// The names of the values of a training step that are no terms of its loss.
const NO_TERMS: [&str; 8] = [
    "loss",
    "accuracy",
    "flu",
    "gradient_norm",
    "learning_rate",
    "tokens",
    "tokens_per_second",
    "useful_tokens",
];

/// Reads the points of earlier processes from the log's lines.
pub fn earlier(lines: &[MetricsLine]) -> Earlier {
    let of = |split: &'static str| lines.iter().filter(move |line| line.split == split);
    Earlier {
        train: of("train").map(train_point).collect(),
        held_out: of("held_out").filter_map(held_out_point).collect(),
    }
}

fn number(line: &MetricsLine, name: &str) -> Option<f64> {
    line.values.get(name)?.as_f64()
}

fn train_point(line: &MetricsLine) -> TrainPoint {
    let values = line.values.iter();
    let terms = values.filter(|(name, _)| !NO_TERMS.contains(&name.as_str()));
    TrainPoint {
        step: line.step,
        loss: number(line, "loss").unwrap_or(f64::NAN),
        terms: terms
            .filter_map(|(name, value)| Some((Cow::Owned(name.clone()), value.as_f64()?)))
            .collect(),
        accuracy: number(line, "accuracy").unwrap_or(f64::NAN),
        flu: number(line, "flu"),
        gradient_norm: number(line, "gradient_norm"),
        learning_rate: number(line, "learning_rate"),
        tokens: number(line, "tokens").unwrap_or(0.0) as usize,
        tokens_per_second: number(line, "tokens_per_second").unwrap_or(0.0),
        // Earlier releases did not write it.
        useful_tokens: number(line, "useful_tokens").unwrap_or(f64::NAN),
    }
}

fn held_out_point(line: &MetricsLine) -> Option<HeldOutPoint> {
    Some(HeldOutPoint {
        step: line.step,
        loss: number(line, "loss")?,
        accuracy: number(line, "accuracy")?,
        ece: number(line, "expected_calibration_error")?,
        nll: number(line, "negative_log_likelihood")?,
        flu: number(line, "flu"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_points_of_earlier_processes_are_read_from_the_log() {
        let line = |split: &str, step, values: serde_json::Value| MetricsLine {
            split: split.into(),
            step,
            seconds: 1.0,
            values: values.as_object().cloned().unwrap_or_default(),
        };
        let lines = [
            line(
                "train",
                3,
                json!({"loss": 0.75, "accuracy": 0.5, "flu": 0.25, "gradient_norm": 2.0,
                    "learning_rate": 1e-4, "tokens": 64, "tokens_per_second": 9.0,
                    "useful_tokens": 0.875, "cross_entropy": 0.5}),
            ),
            line("train", 4, json!({"loss": 0.5, "accuracy": 0.5})),
            line(
                "held_out",
                3,
                json!({"loss": 0.75, "accuracy": 0.5, "expected_calibration_error": 0.125,
                    "negative_log_likelihood": 0.625, "flu": null, "n": 8}),
            ),
        ];
        let Earlier { train, held_out } = earlier(&lines);
        assert_eq!(train[0].terms, [("cross_entropy".into(), 0.5)]);
        assert_eq!(
            (train[0].step, train[0].tokens, train[0].flu),
            (3, 64, Some(0.25))
        );
        assert_eq!(train[0].learning_rate, Some(1e-4));
        assert_eq!(train[0].useful_tokens, 0.875);
        assert!(train[1].useful_tokens.is_nan(), "of an earlier release");
        let expected = HeldOutPoint {
            step: 3,
            loss: 0.75,
            accuracy: 0.5,
            ece: 0.125,
            nll: 0.625,
            flu: None,
        };
        assert_eq!(held_out, [expected]);
    }
}
