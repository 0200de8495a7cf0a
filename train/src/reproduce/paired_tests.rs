//! How the rows of a table differ on the same questions and seeds.

use serde::Serialize;

use super::tables::Column;
use crate::metric::Bootstrap;
use crate::metric::paired::{Differences, Gaps, common};
use crate::prediction::ScoredRow;

/// How a row differs from a reference row in a column, or in the mean of several.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairedTest {
    /// The reference's label.
    pub reference: String,
    /// The row's label.
    pub row: String,
    /// The column's label; for a mean over columns, what they have in common.
    pub column: String,
    /// The row less the reference: accuracy, ECE, NLL, Brier score.
    pub differences: Differences,
}

/// The rows that the others are compared with; a table that has neither compares with its first.
const REFERENCES: [&str; 2] = ["LoRA", "MixLoRA"];

/// A row's answers in a column, seed by seed; none where that seed has not been scored.
pub(super) type BySeed = Vec<Option<Vec<ScoredRow>>>;

/// Columns over which differences are averaged, too, and what they have in common.
pub(super) struct ColumnGroup {
    pub(super) label: String,
    /// Places of the columns.
    pub(super) columns: Vec<usize>,
}

/// The means of a table: of its columns that ask questions of the training's dataset, and of those
/// whose trainings are the same, where there are several.
pub(super) fn groups(columns: &[Column]) -> Vec<ColumnGroup> {
    let places = |wanted: &dyn Fn(&Column) -> bool| -> Vec<usize> {
        let all = columns.iter().enumerate();
        // What settings are chosen by is no test.
        all.filter(|(_, c)| !c.is_held_out() && wanted(c))
            .map(|(i, _)| i)
            .collect()
    };
    let own = |column: &Column| !column.is_shifted();
    let mut found = vec![ColumnGroup {
        label: "mean in distribution".into(),
        columns: places(&own),
    }];
    for (place, column) in columns.iter().enumerate() {
        if columns[..place].iter().any(|c| c.train == column.train) {
            continue;
        }
        let same = places(&|c| c.train == column.train);
        let named = columns.iter().find(|c| own(c) && c.train == column.train);
        let label = named.map_or(column.train, |c| c.label);
        found.push(ColumnGroup {
            label: format!("mean of those trained on {label}"),
            columns: same,
        });
    }
    found.retain(|group| group.columns.len() > 1);
    found
}

/// Compares the rows of every column, as [`gaps`], and of every group's mean where all its columns
/// have been scored.
pub(super) fn paired_tests(
    columns: &[(&str, Vec<(String, BySeed)>)],
    groups: &[ColumnGroup],
    controls: &[(&str, &str)],
    bins: usize,
    bootstrap: Bootstrap,
) -> Vec<PairedTest> {
    let all: Vec<Vec<(Pair, Gaps)>> = columns
        .iter()
        .map(|(_, rows)| gaps(rows, controls, bins, bootstrap))
        .collect();
    let test = |column: &str, (reference, row): &Pair, gaps: &Gaps| PairedTest {
        reference: reference.clone(),
        row: row.clone(),
        column: column.into(),
        differences: gaps.differences(),
    };
    let mut found = Vec::new();
    for ((column, _), pairs) in columns.iter().zip(&all) {
        found.extend(pairs.iter().map(|(pair, gaps)| test(column, pair, gaps)));
    }
    for group in groups {
        let Some(first) = group.columns.first() else {
            continue;
        };
        for (pair, _) in &all[*first] {
            let of = |place: &usize| {
                let known = all[*place].iter().find(|(other, _)| other == pair);
                known.map(|(_, gaps)| gaps.clone())
            };
            let sets: Option<Vec<Gaps>> = group.columns.iter().map(of).collect();
            let mean = sets.and_then(|sets| Gaps::mean(&sets));
            found.extend(mean.map(|gaps| test(&group.label, pair, &gaps)));
        }
    }
    found
}

/// A reference and a row.
type Pair = (String, String);

/// Compares every row of one column with every reference and with its control, seed by seed and by
/// the questions that both were asked: else the difference between seeds would be in theirs.
fn gaps(
    rows: &[(String, BySeed)],
    controls: &[(&str, &str)],
    bins: usize,
    bootstrap: Bootstrap,
) -> Vec<(Pair, Gaps)> {
    let mut found = Vec::new();
    let known = |name: &str| REFERENCES.contains(&name);
    let any = rows.iter().any(|(row, _)| known(row));
    for (place, (reference, first)) in rows.iter().enumerate() {
        let is_reference = known(reference) || (!any && place == 0);
        for (row, other) in rows.iter().filter(|(row, _)| row != reference) {
            if !is_reference && !controls.contains(&(&**row, &**reference)) {
                continue;
            }
            let seeds = first.iter().cloned().zip(other.iter().cloned());
            let shared = seeds.filter_map(|(a, b)| Some(common(vec![a?, b?])));
            let shared = shared.filter(|both| !both[0].is_empty());
            let (first, other): (Vec<_>, Vec<_>) = shared
                .map(|mut both| (both.remove(0), both.remove(0)))
                .unzip();
            if first.is_empty() {
                continue;
            }
            let pair = (reference.clone(), row.clone());
            found.push((pair, Gaps::of(&first, &other, bins, bootstrap)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_averaged_where_several_have_something_in_common() {
        let column = |label, train, test| Column {
            label,
            train,
            test,
            stand_in: None,
        };
        let columns = [
            column("BoolQ", "boolq", "boolq"),
            column("OBQA", "openbookqa", "openbookqa"),
            column("to ARC-E", "openbookqa", "arc-easy"),
        ];
        let found = groups(&columns).into_iter();
        let found: Vec<_> = found.map(|group| (group.label, group.columns)).collect();
        assert_eq!(
            found,
            [
                ("mean in distribution".to_owned(), vec![0, 1]),
                ("mean of those trained on OBQA".to_owned(), vec![1, 2]),
            ]
        );
        assert!(groups(&columns[..1]).is_empty());
    }

    #[test]
    fn a_row_is_compared_with_its_control_too() {
        let rows = |right: bool| -> BySeed {
            let row = ScoredRow::from_probabilities("0", usize::from(!right), &[0.6, 0.4], None);
            vec![Some(vec![row])]
        };
        let labels = ["LoRA", "LoRA-8", "LA-8"];
        let column = labels.map(|label| (label.to_owned(), rows(true)));
        let columns = [("OBQA", column.to_vec())];
        let controls = [("LA-8", "LoRA-8")];
        let found = paired_tests(&columns, &[], &controls, 15, Bootstrap::default());
        let pairs: Vec<_> = found.iter().map(|t| (&*t.reference, &*t.row)).collect();
        assert_eq!(
            pairs,
            [("LoRA", "LoRA-8"), ("LoRA", "LA-8"), ("LoRA-8", "LA-8")]
        );
    }

    #[test]
    fn rows_are_compared_over_the_seeds_that_both_have() {
        let rows = |right: usize| -> Vec<ScoredRow> {
            let label = |i: usize| usize::from(i >= right);
            let row = |i: usize| {
                ScoredRow::from_probabilities(i.to_string(), label(i), &[0.6, 0.4], None)
            };
            (0..10).map(row).collect()
        };
        let tests = [
            ("LoRA".to_owned(), vec![Some(rows(4)), Some(rows(8)), None]),
            ("Same".to_owned(), vec![None, Some(rows(8)), None]),
            ("Other".to_owned(), vec![None, None, Some(rows(9))]),
        ];
        let columns = [("OBQA", tests.to_vec()), ("ARC-E", tests.to_vec())];
        let group = ColumnGroup {
            label: "both".into(),
            columns: vec![0, 1],
        };
        let found = paired_tests(&columns, &[group], &[], 15, Bootstrap::default());
        let labels: Vec<&str> = found.iter().map(|test| test.column.as_str()).collect();
        assert_eq!(labels, ["OBQA", "ARC-E", "both"]);
        let [accuracy, ..] = found[0].differences;
        assert_eq!(
            (found[0].row.as_str(), accuracy.estimate.value),
            ("Same", Some(0.0))
        );
    }

    /// Two seeds with one question in common: all of both count.
    #[test]
    fn seeds_may_be_asked_questions_of_their_own() {
        let rows = |ids: &[usize], right: &[usize]| -> Vec<ScoredRow> {
            let row = |i: &usize| {
                let label = usize::from(!right.contains(i));
                ScoredRow::from_probabilities(i.to_string(), label, &[0.6, 0.4], None)
            };
            ids.iter().map(row).collect()
        };
        let (first, second) = (&[0, 1, 2][..], &[2, 3, 4][..]);
        let seeds = |right: &[usize]| vec![Some(rows(first, right)), Some(rows(second, right))];
        let columns = [(
            "OBQA",
            vec![
                ("LoRA".to_owned(), seeds(&[0, 1])),
                ("Other".to_owned(), seeds(&[0, 1, 2, 3])),
            ],
        )];
        let found = paired_tests(&columns, &[], &[], 15, Bootstrap::default());
        // Right: 2 of 3 and none, against 3 of 3 and 2 of 3.
        let [accuracy, ..] = found[0].differences;
        let value = accuracy.estimate.value.unwrap();
        assert!((value - 0.5).abs() < 1e-12, "{value}");
    }
}
