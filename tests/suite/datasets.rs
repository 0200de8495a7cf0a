//! Every dataset in its published format: rows of each split, and the prompts that come of them.
//! The files in `tests/fixtures/datasets` have the published shape and made-up content.

use std::fmt::Write;

use data::dataset::DATASETS;
use data::rendering::{Normalization, Rendering, Scoring};
use data::source::Finder;
use data::split::{SplitOptions, Splits, split, test_only};
use data::template::Template;

use crate::support::fixture;

fn finder() -> Finder {
    let mut finder = Finder::from_env();
    finder.data_dir = Some(fixture("datasets"));
    finder.offline = true;
    finder.cache_dir = fixture("datasets/none");
    finder
}

fn options() -> SplitOptions {
    SplitOptions {
        held_out_fraction: 0.34,
        seed: 0,
        train_limit: None,
        held_out_limit: None,
        test_limit: None,
    }
}

fn divided(name: &str) -> Splits {
    let dataset = DATASETS.iter().find(|d| d.name() == name).unwrap();
    split(*dataset, &finder(), &options())
        .or_else(|_| test_only(*dataset, &finder(), &options()))
        .unwrap()
}

#[test]
fn every_split_has_its_rows() {
    // Train, held-out, test; leaks dropped. BoolQ's repeated question stays on one side; ARC's test
    // repeats a training question.
    let expected = [
        ("boolq", [3, 1, 1], 0),
        ("arc-easy", [2, 1, 1], 1),
        ("arc-challenge", [2, 1, 1], 1),
        ("openbookqa", [2, 1, 1], 0),
        ("climateqa", [2, 1, 1], 0),
        ("mmlu-cs", [0, 0, 4], 0),
        ("mmlu-eng", [0, 0, 1], 0),
        ("mmlu-law", [0, 0, 3], 0),
        ("mmlu-health", [0, 0, 7], 0),
        ("climatex", [2, 1, 1], 0),
        ("pira", [1, 1, 1], 0),
        ("triviaqa", [2, 1, 1], 0),
        ("commonsenseqa", [2, 1, 1], 0),
        ("hellaswag", [2, 1, 1], 0),
        ("piqa", [2, 1, 1], 0),
        ("social-iqa", [2, 1, 1], 0),
        ("winogrande", [2, 1, 1], 0),
        ("medqa", [2, 1, 1], 0),
        ("medmcqa", [2, 1, 1], 0),
        ("sciq", [2, 1, 1], 0),
        ("truthfulqa", [0, 0, 2], 0),
        ("mmlu", [0, 0, 2], 0),
        ("mmlu-pro", [0, 0, 1], 0),
    ];
    assert_eq!(expected.len(), DATASETS.len());
    for (name, used, leaks) in expected {
        let found = divided(name).account;
        assert_eq!((found.used, found.leaks_dropped), (used, leaks), "{name}");
    }
}

#[test]
fn prompts_are_as_they_were() {
    let mut text = String::new();
    for dataset in DATASETS {
        let splits = divided(dataset.name());
        let question = splits.train.first().unwrap_or(&splits.test[0]);
        for template in [Template::MoePeft, Template::LaplaceLora, Template::Passage] {
            for scoring in [Scoring::Letters, Scoring::Cloze] {
                let rendering = Rendering {
                    template,
                    labels: dataset.labels(),
                    scoring,
                    normalization: Normalization::Token,
                    answer_tokens: 16,
                    whole_choices: false,
                    chat: None,
                    shots: None,
                };
                let prompt = rendering.render(question).unwrap();
                let _ = write!(
                    text,
                    "== {} {template:?} {scoring:?}\n{}\n{:?}, right: {:?}\n",
                    dataset.name(),
                    prompt.text(),
                    prompt.labels,
                    prompt.labels[question.answer]
                );
            }
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn what_cannot_be_had_says_how_to_get_it() {
    let mut finder = finder();
    finder.data_dir = None;
    for (name, hint) in [
        ("climateqa", "UCSD-GENIE/ClimaQA into a directory"),
        ("triviaqa", "mandarjoshi/trivia_qa into a directory"),
        ("climatex", "github.com/rlacombe/ClimateX"),
        ("pira", "github.com/C4AI/Pira"),
    ] {
        let dataset = DATASETS.iter().find(|d| d.name() == name).unwrap();
        let error = split(*dataset, &finder, &options())
            .unwrap_err()
            .to_string();
        assert!(error.contains(hint), "{error}");
    }
}
