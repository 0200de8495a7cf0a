//! The examples of `examples/`, run: what a program of one's own does with the crates.

use crate::support::programs::train;

#[path = "../../examples/calibrated_service.rs"]
mod calibrated_service;
#[path = "../../examples/logits.rs"]
mod logits;
#[path = "../../examples/own_method.rs"]
mod own_method;
#[path = "../../examples/rows_in_memory.rs"]
mod rows_in_memory;

#[test]
fn a_model_is_loaded_and_says_its_logits() {
    let words = logits::next_words("tiny", "The sky is").unwrap();
    assert_eq!(words.len(), 5);
    assert!(
        words.windows(2).all(|pair| pair[0].1 >= pair[1].1),
        "{words:?}"
    );
    let unknown = logits::next_words("smolm2-135m", "x")
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("smollm2-135m"), "{unknown}");
}

#[test]
fn a_lora_learns_from_rows_in_memory_and_its_run_answers() {
    let root = tempfile::tempdir().unwrap();
    let run = root.path().join("run");
    let (base, tuned) = rows_in_memory::trained(&run).unwrap();
    assert_eq!((base.n, tuned.n), (20, 20));
    let loss = |figures: &train::metric::Metrics| figures.negative_log_likelihood.value.unwrap();
    assert!(
        loss(&tuned) < loss(&base),
        "{} {}",
        loss(&tuned),
        loss(&base)
    );
    assert!(run.join("report.html").is_file());
    let service = calibrated_service::Service::start(run);
    let answer = service
        .ask("What kind of number is 7?", &["even", "odd"])
        .unwrap();
    assert_eq!(answer.calibrated_on, 20);
}

#[test]
fn a_service_answers_with_a_calibrated_confidence() {
    let root = tempfile::tempdir().unwrap();
    train(root.path(), "r", &[]);
    let service = calibrated_service::Service::start(root.path().join("r"));
    let answer = service.ask("is the sky blue", &["true", "false"]).unwrap();
    assert!((0.0..=1.0).contains(&answer.confidence));
    assert!(answer.decision.is_some() && !answer.set.is_empty());
    // A question that cannot be put costs the next one nothing.
    assert!(service.ask("one choice", &["x"]).is_err());
    assert!(service.ask("is it so", &["true", "false"]).is_ok());
    service.end().unwrap();
    let missing = calibrated_service::Service::start(root.path().join("nowhere"));
    let reason = missing.end().unwrap_err().to_string();
    assert!(reason.contains("nowhere"), "{reason}");
}

#[test]
fn a_method_of_ones_own_answers() {
    let [plain, halved] = own_method::asked().unwrap();
    assert_eq!(plain.prediction(), halved.prediction());
    assert!(halved.confidence() < plain.confidence());
}
