use std::collections::BTreeMap;

use data::split::SplitAccount;

use super::super::records::{CurvePoint, EvaluationRecord, Origin, ScoredSet, TrainingRecord};
use super::*;
use crate::evaluation::Cost;
use crate::prediction::{ScoredRow, Written};
use crate::run_directory::{Environment, Provenance};

fn origin() -> Origin {
    Origin {
        settings: "[train]\nseed = 42\n".into(),
        provenance: Provenance {
            chat: None,
            prompt: None,
            model: Vec::new(),
            adapter: Vec::new(),
            split: SplitAccount {
                dataset: "boolq".into(),
                held_out_from: "train".into(),
                test_from: "validation".into(),
                leaks_dropped: 2,
                other_leaks_dropped: None,
                available: [5, 4, 3],
                used: [3, 2, 1],
                files: Vec::new(),
                notes: Vec::new(),
                counts_from: None,
            },
            shortened: [1, 0, 0],
            answers_cut: 0,
            left_out: Vec::new(),
            base_parameters: 1000,
            trainable_parameters: 10,
        },
        environment: Environment {
            version: "0.1.0".into(),
            commit: None,
            device: "cpu".into(),
            threads: 2,
            command: "uq4ct reproduce \"fig3\"".into(),
        },
    }
}

/// A row as it is read from `predictions.jsonl`: with the digits of an f32.
fn recorded(row: ScoredRow) -> ScoredRow {
    serde_json::from_str(&serde_json::to_string(&row).unwrap()).unwrap()
}

fn records() -> Records {
    let choices = |id: &str, probabilities: &[f64], flu| ScoredRow {
        logits: probabilities.iter().map(|p| p.ln() - 3.3).collect(),
        ..ScoredRow::from_probabilities(id, 0, probabilities, flu)
    };
    let agreed = ScoredRow {
        agreement: Some(1.0 / 3.0),
        ..choices("c", &[0.75, 0.25], None)
    };
    let written = Written {
        text: "two\nlines".into(),
        log_probabilities: vec![-0.1, -1e-7],
    };
    let rows = vec![
        choices("a", &[0.1, 0.2, 0.7], Some(0.31)),
        choices("b", &[1.0 - 1e-30, 1e-30], Some(0.1)),
        agreed,
        ScoredRow::from_written("d", true, written, None, Default::default()),
    ];
    let set = ScoredSet {
        cost: Cost {
            questions: 4,
            forward_passes: 3,
            seconds_per_question: 0.1 + 0.2,
        },
        sources: vec!["x; y".into(), "z".into()],
        rows: rows.into_iter().map(recorded).collect(),
    };
    let point = |split: &str, values: &[(&str, f64)]| CurvePoint {
        split: split.into(),
        step: 1,
        seconds: 1.0 / 7.0,
        values: values.iter().map(|(k, v)| ((*k).into(), *v)).collect(),
    };
    let training = TrainingRecord {
        origin: origin(),
        curve: vec![
            point("train", &[("loss", 0.1), ("accuracy", 1.0)]),
            point("held_out", &[("n", 66.0)]),
        ],
    };
    let evaluation = EvaluationRecord {
        origin: origin(),
        sets: BTreeMap::from([("held-out".into(), set.clone()), ("boolq".into(), set)]),
    };
    Records {
        trainings: BTreeMap::from([("t".into(), training)]),
        evaluations: BTreeMap::from([("e".into(), evaluation)]),
    }
}

#[test]
fn records_come_back_to_the_last_digit_and_the_bytes_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(ARCHIVE);
    write(&path, &records()).unwrap();
    assert_eq!(read(&path).unwrap(), records());
    let bytes = std::fs::read(&path).unwrap();
    write(&path, &read(&path).unwrap()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    write(&path, &Records::default()).unwrap();
    assert_eq!(read(&path).unwrap(), Records::default());
}

#[test]
fn any_f32_is_a_softmax_and_a_rounding() {
    let logits = [-5.25, 3.5, f32::NEG_INFINITY];
    let probabilities = [0.0, 1.0, f32::MIN_POSITIVE];
    let places = rounding(&logits, &probabilities);
    assert_eq!(rounded(&logits, &places), probabilities);
    let nothing = [f32::NEG_INFINITY; 3];
    let places = rounding(&nothing, &probabilities);
    assert_eq!(rounded(&nothing, &places), probabilities);
}

#[test]
fn damaged_files_are_errors_that_name_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(ARCHIVE);
    assert!(read(&path).unwrap_err().to_string().contains(ARCHIVE));
    write(&path, &records()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for cut in [0, 3, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("is damaged"), "{error}");
        assert!(error.contains("record the table again"), "{error}");
    }
    let none = Records {
        evaluations: BTreeMap::from([(
            "e".into(),
            EvaluationRecord {
                origin: origin(),
                sets: BTreeMap::from([(
                    "boolq".into(),
                    ScoredSet {
                        cost: Cost {
                            questions: 0,
                            forward_passes: 1,
                            seconds_per_question: 0.0,
                        },
                        sources: Vec::new(),
                        rows: Vec::new(),
                    },
                )]),
            },
        )]),
        ..Records::default()
    };
    let error = write(&path, &none).unwrap_err().to_string();
    assert!(error.contains("boolq has no questions"), "{error}");
}
