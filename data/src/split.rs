//! Train, held-out and test, without a question in two of them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, OfficialSplit, is_own, load};
use crate::error::DataError;
use crate::example::MultipleChoice;
use crate::leaks::without_other_tests;
use crate::seed::mix;
use crate::source::{Finder, Located};

/// Settings of a division into train, held-out and test.
#[derive(Debug, Clone, PartialEq)]
pub struct SplitOptions {
    /// Share of train that is held out where no validation split is left for that.
    pub held_out_fraction: f64,
    /// Seeds the division and every sample.
    pub seed: u64,
    /// Keep at most this many training rows.
    pub train_limit: Option<usize>,
    /// Keep at most this many held-out rows.
    pub held_out_limit: Option<usize>,
    /// Keep at most this many test rows.
    pub test_limit: Option<usize>,
}

/// A dataset divided into train, held-out and test.
#[derive(Debug, Clone, Default)]
pub struct Splits {
    /// Questions that the adapter learns from.
    pub train: Vec<MultipleChoice>,
    /// Questions on which everything else is chosen: temperature, thresholds, early stopping.
    pub held_out: Vec<MultipleChoice>,
    /// Questions of the reported figures; nothing is chosen on them.
    pub test: Vec<MultipleChoice>,
    /// How the division came about.
    pub account: SplitAccount,
}

/// How a division came about; part of `data.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct SplitAccount {
    /// Name of the dataset.
    pub dataset: String,
    /// The published split, or the share of train, that is held out.
    pub held_out_from: String,
    /// The published split, or the share of train, that serves as the test.
    pub test_from: String,
    /// Training and held-out rows dropped because they repeat a question of a later split.
    pub leaks_dropped: usize,
    /// Training rows dropped because they repeat a test question of another dataset; absent where
    /// that was not looked at: in earlier runs, with the user's own data, without a training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_leaks_dropped: Option<usize>,
    /// Rows before any limit: train, held-out, test.
    pub available: [usize; 3],
    /// Rows used: train, held-out, test.
    pub used: [usize; 3],
    /// Every file that was read, with its source and digest.
    pub files: Vec<Located>,
    /// What was found by itself about the fields of the user's own files, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The number that means the first choice in the user's own files, where they tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts_from: Option<usize>,
}

/// A random draw. Each has a generator of its own, so that no limit changes another split's sample.
#[derive(Clone, Copy)]
enum Draw {
    Carve,
    Train,
    HeldOut,
    Test,
    CarveTest,
}

impl Draw {
    fn rng(self, options: &SplitOptions) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(mix(options.seed, self as u64))
    }
}

/// Loads and divides a dataset.
///
/// # Errors
/// The errors of [`load`], a dataset without training questions, and limits that leave a split
/// empty.
pub fn split(
    dataset: &dyn Dataset,
    finder: &Finder,
    options: &SplitOptions,
) -> Result<Splits, DataError> {
    let found = dataset.located(finder)?;
    let dataset = found.as_deref().unwrap_or(dataset);
    let agreed = dataset.agreed(finder)?;
    let dataset = agreed.as_deref().unwrap_or(dataset);
    let published = dataset.splits();
    if !published.contains(&OfficialSplit::Train) {
        let name = dataset.name();
        return Err(DataError::setting(
            format!("dataset {name}"),
            format!(
                "has no training questions; score a finished run on it: uq4ct evaluate RUN --on {name}"
            ),
        ));
    }
    let train = load(dataset, OfficialSplit::Train, finder)?;
    let (mut train, mut files, mut notes) = (train.questions, train.located, train.notes);
    let listed = !is_own(dataset);
    let rows = train.len();
    let percent = format!("{:.0} % of train", options.held_out_fraction * 100.0);
    let mut part = |split: Option<OfficialSplit>, draw: Draw| match split {
        Some(split) => {
            let loaded = load(dataset, split, finder)?;
            files.extend(loaded.located);
            notes.extend(loaded.notes);
            Ok((loaded.questions, split.name().to_owned()))
        }
        None => {
            let all = std::mem::take(&mut train);
            let (fraction, from) = match (listed, draw) {
                (false, Draw::Carve) => of_own(all.len(), rows, options.held_out_fraction),
                _ => (options.held_out_fraction, percent.clone()),
            };
            let mut rng = draw.rng(options);
            // The division of the published datasets is that of the recorded tables.
            let (kept, out) = match listed {
                true => carve(all, fraction, &mut rng, |_| 0),
                false => carve(all, fraction, &mut rng, |question| question.answer),
            };
            train = kept;
            Ok((out, from))
        }
    };
    let test_split = test_split(dataset);
    let has_validation = published.contains(&OfficialSplit::Validation);
    let held_out_split = (has_validation && test_split != Some(OfficialSplit::Validation))
        .then_some(OfficialSplit::Validation);
    let (test, test_from) = part(test_split, Draw::CarveTest)?;
    let (held_out, held_out_from) = part(held_out_split, Draw::Carve)?;
    let (held_out, from_held_out) = without_leaks(held_out, &test, &[]);
    let (train, from_train) = without_leaks(train, &held_out, &test);
    // The recorded tables have the published datasets as they are.
    let (held_out, test) = match listed {
        true => (held_out, test),
        false => (
            once("held-out", held_out, &mut notes),
            once("test", test, &mut notes),
        ),
    };
    let (train, from_others) = match listed {
        true => {
            let (train, dropped) = without_other_tests(train, dataset.name());
            (train, Some(dropped))
        }
        // What the user trains on is the user's choice.
        false => (train, None),
    };
    let mut splits = Splits {
        account: SplitAccount {
            dataset: dataset.name().into(),
            held_out_from,
            test_from,
            leaks_dropped: from_train + from_held_out,
            other_leaks_dropped: from_others,
            available: [train.len(), held_out.len(), test.len()],
            used: [0; 3],
            files,
            notes,
            counts_from: dataset.counts_from(),
        },
        train: sample(train, options.train_limit, &mut Draw::Train.rng(options)),
        held_out: sample(
            held_out,
            options.held_out_limit,
            &mut Draw::HeldOut.rng(options),
        ),
        test: sample(test, options.test_limit, &mut Draw::Test.rng(options)),
    };
    splits.account.used = [splits.train.len(), splits.held_out.len(), splits.test.len()];
    for (place, name) in ["train", "held-out", "test"].iter().enumerate() {
        if splits.account.used[place] == 0 {
            let account = &splits.account;
            return Err(DataError::setting(
                format!("{} {name}", dataset.name()),
                empty(
                    account,
                    place,
                    [from_train, from_held_out][place.min(1)],
                    options,
                ),
            ));
        }
    }
    Ok(splits)
}

/// The questions, each once: intervals and promises count rows, and a question that is asked again
/// tells nothing new. `notes` is told how many are left out.
fn once(
    split: &str,
    mut questions: Vec<MultipleChoice>,
    notes: &mut Vec<String>,
) -> Vec<MultipleChoice> {
    let right = |question: &MultipleChoice| match question.written {
        true => None,
        false => question
            .choices
            .get(question.answer)
            .map(|text| text.to_lowercase()),
    };
    let (mut repeats, mut contrary) = (0, 0);
    let mut seen: HashMap<String, Option<String>> = HashMap::new();
    questions.retain(|question| match seen.entry(question.fingerprint()) {
        Entry::Vacant(place) => {
            place.insert(right(question));
            true
        }
        Entry::Occupied(known) => {
            repeats += 1;
            contrary += usize::from(*known.get() != right(question));
            false
        }
    });
    if repeats > 0 {
        let among = match contrary {
            0 => String::new(),
            n => format!(", {n} of them with another answer than the first, which counts"),
        };
        notes.push(format!(
            "the {split} questions: {repeats} row(s) that repeat one of the other {}{among}: left out",
            questions.len()
        ));
    }
    questions
}

/// Why a split has no rows, and what to do: the one in this place of train, held-out and test.
/// `dropped` rows of it repeat questions of a later split.
fn empty(account: &SplitAccount, place: usize, dropped: usize, options: &SplitOptions) -> String {
    let mut files: Vec<&str> = account.files.iter().map(|file| &*file.origin).collect();
    files.dedup();
    let files = files.join(", ");
    if account.available[place] > 0 {
        let limit = ["train", "held_out", "test"][place];
        return format!("no question is left for it: data.{limit}_limit is 0");
    }
    if place < 2 && dropped > 0 {
        return format!(
            "no question is left for it: {dropped} row(s) of {files} were dropped because they repeat a held-out or a test question: name files that share none"
        );
    }
    format!(
        "no question is left for it: {files} cannot be divided with data.held_out_fraction = {}: set another share, or name files with --test and --held-out; where rows have a group, at least 3 groups are needed",
        options.held_out_fraction
    )
}

/// The published split that serves as the test; none if it is to be a share of train.
fn test_split(dataset: &dyn Dataset) -> Option<OfficialSplit> {
    let published = dataset.splits();
    if published.contains(&OfficialSplit::Test) {
        return Some(OfficialSplit::Test);
    }
    let serves = dataset.validation_is_test() && published.contains(&OfficialSplit::Validation);
    serves.then_some(OfficialSplit::Validation)
}

/// Loads the test questions alone: all that a finished run needs of another dataset.
///
/// # Errors
/// The errors of [`load`].
pub fn test_only(
    dataset: &dyn Dataset,
    finder: &Finder,
    options: &SplitOptions,
) -> Result<Splits, DataError> {
    let found = dataset.located(finder)?;
    let dataset = found.as_deref().unwrap_or(dataset);
    let Some(test_split) = test_split(dataset) else {
        let whole = split(dataset, finder, options)?;
        return Ok(Splits {
            train: Vec::new(),
            held_out: Vec::new(),
            ..whole
        });
    };
    let mut test = load(dataset, test_split, finder)?;
    if is_own(dataset) {
        test.questions = once("test", test.questions, &mut test.notes);
    }
    let available = test.questions.len();
    let mut rng = Draw::Test.rng(options);
    let test_questions = sample(test.questions, options.test_limit, &mut rng);
    Ok(Splits {
        account: SplitAccount {
            dataset: dataset.name().into(),
            held_out_from: "none".into(),
            test_from: test_split.name().into(),
            leaks_dropped: 0,
            other_leaks_dropped: None,
            available: [0, 0, available],
            used: [0, 0, test_questions.len()],
            files: test.located,
            notes: test.notes,
            counts_from: dataset.counts_from(),
        },
        train: Vec::new(),
        held_out: Vec::new(),
        test: test_questions,
    })
}

/// Held-out questions that a calibration wants.
const ENOUGH: usize = 100;
/// Largest share of a small file that is held out for it.
const LARGEST: f64 = 0.2;
/// [`SplitOptions::held_out_fraction`] where nobody has said another.
pub const HELD_OUT_FRACTION: f64 = 0.1;

/// The share of `left` rows of a file of the user's own with `rows` rows that is held out, and how
/// that is said: more than the usual share where that is less than a calibration wants.
fn of_own(left: usize, rows: usize, fraction: f64) -> (f64, String) {
    let usual = (left as f64 * fraction).round();
    let wanted = (ENOUGH as f64).min((rows as f64 * LARGEST).round());
    if fraction != HELD_OUT_FRACTION || usual >= wanted {
        return (fraction, format!("{:.0} % of train", 100.0 * fraction));
    }
    let fraction = wanted / left.max(1) as f64;
    let from = format!("{:.0} % of train, for the file is small", 100.0 * fraction);
    (fraction, from)
}

/// Takes a share of the questions out, of each stratum alike. The rows of one group, or else
/// repeats of one question, stay on one side; they are of their first row's stratum.
fn carve(
    questions: Vec<MultipleChoice>,
    fraction: f64,
    rng: &mut ChaCha8Rng,
    stratum: impl Fn(&MultipleChoice) -> usize,
) -> (Vec<MultipleChoice>, Vec<MultipleChoice>) {
    // An ordered map: the division must not depend on a hash.
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (row, question) in questions.iter().enumerate() {
        let group = question
            .group
            .as_ref()
            .map(|group| format!("group {group}"));
        let name = group.unwrap_or_else(|| question.fingerprint());
        groups.entry(name).or_default().push(row);
    }
    let wanted = (questions.len() as f64 * fraction).round() as usize;
    let mut order: Vec<Vec<usize>> = groups.into_values().collect();
    order.shuffle(rng);
    let order = alternating(order, |group| stratum(&questions[group[0]]));
    let mut out = HashSet::new();
    for group in order {
        if out.len() >= wanted {
            break;
        }
        out.extend(group);
    }
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for (row, question) in questions.into_iter().enumerate() {
        match out.contains(&row) {
            true => held_out.push(question),
            false => train.push(question),
        }
    }
    (train, held_out)
}

/// The same groups, in an order of whose every beginning each stratum has its share.
fn alternating(groups: Vec<Vec<usize>>, stratum: impl Fn(&Vec<usize>) -> usize) -> Vec<Vec<usize>> {
    let mut strata: BTreeMap<usize, Vec<Vec<usize>>> = BTreeMap::new();
    for group in groups {
        strata.entry(stratum(&group)).or_default().push(group);
    }
    let mut placed: Vec<(f64, Vec<usize>)> = strata
        .into_values()
        .flat_map(|groups| {
            let n = groups.len() as f64;
            let places = groups.into_iter().enumerate();
            places.map(move |(place, group)| ((place as f64 + 0.5) / n, group))
        })
        .collect();
    // Stable: ties stay in the order of the strata.
    placed.sort_by(|one, other| one.0.total_cmp(&other.0));
    placed.into_iter().map(|(_, group)| group).collect()
}

/// The rows that repeat none of two other splits, and how many do.
fn without_leaks(
    train: Vec<MultipleChoice>,
    held_out: &[MultipleChoice],
    test: &[MultipleChoice],
) -> (Vec<MultipleChoice>, usize) {
    let seen: HashSet<String> = held_out
        .iter()
        .chain(test)
        .map(MultipleChoice::fingerprint)
        .collect();
    let before = train.len();
    let train: Vec<_> = train
        .into_iter()
        .filter(|q| !seen.contains(&q.fingerprint()))
        .collect();
    let dropped = before - train.len();
    (train, dropped)
}

/// A seeded sample without replacement, in the original order.
fn sample(
    questions: Vec<MultipleChoice>,
    limit: Option<usize>,
    rng: &mut ChaCha8Rng,
) -> Vec<MultipleChoice> {
    let Some(limit) = limit.filter(|l| *l < questions.len()) else {
        return questions;
    };
    let mut rows: Vec<usize> = (0..questions.len()).collect();
    rows.shuffle(rng);
    let kept: HashSet<usize> = rows.into_iter().take(limit).collect();
    questions
        .into_iter()
        .enumerate()
        .filter(|(row, _)| kept.contains(row))
        .map(|(_, question)| question)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(text: &str) -> MultipleChoice {
        MultipleChoice {
            id: text.into(),
            question: text.into(),
            passage: None,
            choices: vec!["a".into(), "b".into()],
            answer: 0,
            group: None,
            written: false,
        }
    }

    #[test]
    fn repeats_stay_on_one_side_and_leaks_are_dropped() {
        let rows: Vec<_> = (0..40)
            .map(|i| question(&format!("Q  {}", i % 10)))
            .collect();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let (train, held_out) = carve(rows, 0.2, &mut rng, |_| 0);
        assert_eq!((train.len(), held_out.len()), (32, 8));
        let texts: HashSet<_> = held_out.iter().map(|q| &q.question).collect();
        assert!(train.iter().all(|q| !texts.contains(&q.question)));
        let test = [question("q 3"), question("unseen")];
        let (clean, dropped) = without_leaks(train, &held_out, &test);
        assert!(clean.iter().all(|q| q.question != "Q  3"));
        assert_eq!(dropped + clean.len(), 32);
    }

    #[test]
    fn each_answer_has_its_share_of_the_held_out() {
        let rows: Vec<_> = (0..300)
            .map(|i| MultipleChoice {
                answer: usize::from(i % 10 == 0),
                ..question(&i.to_string())
            })
            .collect();
        for seed in 0..5 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (_, out) = carve(rows.clone(), 0.2, &mut rng, |q| q.answer);
            let rare = out.iter().filter(|q| q.answer == 1).count();
            assert_eq!((out.len(), rare), (60, 6));
        }
        // One stratum is the shuffled order as it was.
        let groups: Vec<Vec<usize>> = (0..7).map(|i| vec![i]).collect();
        assert_eq!(alternating(groups.clone(), |_| 0), groups);
    }

    #[test]
    fn a_small_file_holds_more_out_unless_that_was_said() {
        let share = |left, rows, fraction| {
            let (fraction, from) = of_own(left, rows, fraction);
            ((left as f64 * fraction).round() as usize, from)
        };
        assert_eq!(share(270, 300, 0.1).0, 60);
        assert!(share(270, 300, 0.1).1.contains("the file is small"));
        assert_eq!(share(720, 800, 0.1).0, 100);
        assert_eq!(share(2000, 2000, 0.1), (200, "10 % of train".into()));
        assert_eq!(share(300, 300, 0.15), (45, "15 % of train".into()));
        assert_eq!(share(0, 0, 0.1).0, 0);
    }

    #[test]
    fn samples_depend_on_the_seed_alone() {
        let rows: Vec<_> = (0..50).map(|i| question(&i.to_string())).collect();
        let draw = |seed| sample(rows.clone(), Some(5), &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1).len(), 5);
    }
}
