//! Training questions of one dataset that repeat a test question of another.
//!
//! The test questions of the listed datasets come with the program, as hashes: whether a training
//! leaks into a set on which it is scored later must not depend on which files are at hand today.
//! `cargo run -p uq4ct-data --example test_fingerprints DATA_DIR` writes them anew.

use std::collections::HashSet;

use crate::example::MultipleChoice;
use crate::seed::hash_name;

macro_rules! test_set {
    ($name:literal) => {
        (
            $name,
            include_bytes!(concat!("../test_fingerprints/", $name, ".bin")) as &[u8],
        )
    };
}

/// The hashes of each dataset's test questions, eight bytes each, little-endian, in rising order.
/// ClimateQA's are missing, whose files are the user's.
pub const TEST_SETS: &[(&str, &[u8])] = &[
    test_set!("boolq"),
    test_set!("arc-easy"),
    test_set!("arc-challenge"),
    test_set!("openbookqa"),
    test_set!("mmlu-cs"),
    test_set!("mmlu-eng"),
    test_set!("mmlu-law"),
    test_set!("mmlu-health"),
    test_set!("climatex"),
    test_set!("pira"),
    test_set!("triviaqa"),
];

/// A question's content as a number: equal where [`MultipleChoice::fingerprint`] is equal.
pub fn question_hash(question: &MultipleChoice) -> u64 {
    hash_name(0, &question.fingerprint())
}

/// The hashes of questions in the form of [`TEST_SETS`].
pub fn to_bytes<'a>(questions: impl IntoIterator<Item = &'a MultipleChoice>) -> Vec<u8> {
    let mut hashes: Vec<u64> = questions.into_iter().map(question_hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect()
}

/// The hashes in bytes that [`to_bytes`] made. What is left of a cut file is no hash.
pub fn from_bytes(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let hashes = bytes.as_chunks::<8>().0.iter();
    hashes.map(|bytes| u64::from_le_bytes(*bytes))
}

/// The hashes of all test questions but those of `dataset` itself.
fn other_tests(dataset: &str) -> HashSet<u64> {
    let others = TEST_SETS.iter().filter(|(name, _)| *name != dataset);
    others.flat_map(|(_, bytes)| from_bytes(bytes)).collect()
}

/// The questions of `dataset` that repeat no test question of another dataset, and how many do.
pub(crate) fn without_other_tests(
    questions: Vec<MultipleChoice>,
    dataset: &str,
) -> (Vec<MultipleChoice>, usize) {
    let others = other_tests(dataset);
    let before = questions.len();
    let kept: Vec<_> = questions
        .into_iter()
        .filter(|question| !others.contains(&question_hash(question)))
        .collect();
    let dropped = before - kept.len();
    (kept, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_set_has_all_its_questions_once() {
        let sizes: Vec<usize> = TEST_SETS.iter().map(|(_, bytes)| bytes.len()).collect();
        assert!(sizes.iter().all(|size| size % 8 == 0), "{sizes:?}");
        let count = |name: &str| TEST_SETS.iter().find(|(n, _)| *n == name).unwrap().1.len() / 8;
        assert_eq!((count("openbookqa"), count("climatex")), (500, 300));
        for (name, bytes) in TEST_SETS {
            let hashes: Vec<u64> = from_bytes(bytes).collect();
            assert!(hashes.windows(2).all(|pair| pair[0] < pair[1]), "{name}");
        }
    }

    #[test]
    fn a_test_question_of_another_dataset_is_dropped_however_it_is_written() {
        let question = |text: &str| MultipleChoice {
            id: "1".into(),
            question: text.into(),
            passage: None,
            choices: [
                "have lunch with friends",
                "Quit  eating lunch out",
                "buy less with monopoly money",
                "make more phone calls",
            ]
            .map(str::to_owned)
            .into(),
            answer: 0,
            group: None,
            written: false,
        };
        // OpenBookQA's first.
        let known = "A person wants to start saving money so that they can afford a nice vacation \
                     at the end of the year. After looking over their budget and expenses, they \
                     decide the best way to save money is to";
        let rows = || vec![question(known), question("Unseen?")];
        let (kept, dropped) = without_other_tests(rows(), "arc-easy");
        assert_eq!((kept.len(), dropped), (1, 1));
        assert_eq!(kept[0].question, "Unseen?");
        // Within a dataset the split itself looks at the questions.
        assert_eq!(without_other_tests(rows(), "openbookqa").1, 0);
    }
}
