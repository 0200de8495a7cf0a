//! Against torchmetrics and scikit-learn; the fixture is made by `tests/fixtures/make_metrics.py`.

use serde_json::Value;
use train::metric::calibration::{BinEdge, expected_calibration_error, maximum_calibration_error};
use train::metric::{Bootstrap, Metrics};
use train::posthoc::confidence::Information;
use train::prediction::ScoredRow;

use crate::support::fixture;

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

fn rows(case: &Value) -> Vec<ScoredRow> {
    let labels = numbers(&case["labels"]);
    let probabilities = case["probabilities"].as_array().unwrap();
    probabilities
        .iter()
        .zip(labels)
        .enumerate()
        .map(|(i, (p, label))| {
            let probabilities = numbers(p);
            // The confidence stands in for FLU: both are claims to be right.
            let flu = probabilities.iter().copied().reduce(f64::max);
            ScoredRow::from_probabilities(i.to_string(), label as usize, &probabilities, flu)
        })
        .collect()
}

#[test]
fn metrics_equal_torchmetrics_and_scikit_learn() {
    let text = std::fs::read_to_string(fixture("metrics.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    let bootstrap = Bootstrap {
        resamples: 0,
        seed: 0,
    };
    for case in fixture["cases"].as_array().unwrap() {
        let rows = rows(case);
        let metrics = Metrics::of(&rows, 15, bootstrap);
        let flu = metrics.flu.as_ref().unwrap();
        for (name, found) in [
            ("ece", metrics.expected_calibration_error),
            ("mce", metrics.maximum_calibration_error),
            ("nll", metrics.negative_log_likelihood),
            ("brier", metrics.brier_score),
            ("auroc", metrics.auroc),
            ("ece", flu.expected_calibration_error),
            ("auroc", flu.auroc),
        ] {
            let expected = case[name].as_f64().unwrap();
            let found = found.value.unwrap();
            // torchmetrics computes in f32.
            assert!(
                (found - expected).abs() < 2e-6,
                "{name}: {found} {expected}"
            );
        }
    }
}

#[test]
fn saturated_confidences_are_counted_whichever_edge_a_bin_owns() {
    let outcomes = [(1.0, true), (1.0, false), (0.0, false), (0.5, true)];
    for edge in [BinEdge::Left, BinEdge::Right] {
        let ece = expected_calibration_error(&outcomes, 15, edge);
        assert!((ece - (2.0 * 0.5 + 0.5) / 4.0).abs() < 1e-12, "{ece}");
        assert_eq!(maximum_calibration_error(&outcomes, 15, edge), 0.5);
    }
}

#[test]
fn flus_information_equals_a_likelihood_ratio_test_of_statsmodels() {
    let text = std::fs::read_to_string(fixture("information.json")).unwrap();
    let fixture: Value = serde_json::from_str(&text).unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let (confidence, flu) = (numbers(&case["confidence"]), numbers(&case["flu"]));
        let right = case["right"].as_array().unwrap().iter();
        let right: Vec<bool> = right.map(|v| v.as_bool().unwrap()).collect();
        let row = |i: usize| {
            let rest = (1.0 - confidence[i]) / 3.0;
            let probabilities = [confidence[i], rest, rest, rest];
            let label = usize::from(!right[i]);
            ScoredRow::from_probabilities(i.to_string(), label, &probabilities, Some(flu[i]))
        };
        let rows: Vec<ScoredRow> = (0..right.len()).map(row).collect();
        let found = Information::of(&rows).unwrap();
        let expected = case["likelihood_ratio"].as_f64().unwrap();
        assert!((found.likelihood_ratio - expected).abs() < 1e-4 * (1.0 + expected));
        let expected = case["p_value"].as_f64().unwrap();
        assert!((found.p_value - expected).abs() < 1e-4 * expected + 1e-12);
        let without: Vec<ScoredRow> = rows
            .into_iter()
            .map(|row| ScoredRow { flu: None, ..row })
            .collect();
        assert!(Information::of(&without).is_none());
    }
}
