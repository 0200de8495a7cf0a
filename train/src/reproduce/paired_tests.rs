//! How the rows of a table differ on the same questions and seeds.

use serde::Serialize;

use crate::metric::Bootstrap;
use crate::metric::paired::{Differences, common, differences};
use crate::prediction::ScoredRow;

/// How a row differs from a reference row in a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairedTest {
    /// The reference's label.
    pub reference: String,
    /// The row's label.
    pub row: String,
    /// The column's label.
    pub column: String,
    /// The row less the reference: accuracy, ECE, NLL, Brier score.
    pub differences: Differences,
}

/// The rows that the others are compared with; a table that has neither compares with its first.
const REFERENCES: [&str; 2] = ["LoRA", "MixLoRA"];

/// A row's answers in a column, seed by seed; none where that seed has not been scored.
pub(super) type BySeed = Vec<Option<Vec<ScoredRow>>>;

/// Compares every row of one column with every reference, by the questions and over the seeds that
/// both have: else the difference between seeds would be in theirs.
pub(super) fn paired_tests(
    column: &str,
    rows: &[(String, BySeed)],
    bins: usize,
    bootstrap: Bootstrap,
) -> Vec<PairedTest> {
    let mut found = Vec::new();
    let known = |name: &str| REFERENCES.contains(&name);
    let any = rows.iter().any(|(row, _)| known(row));
    for (place, (reference, first)) in rows.iter().enumerate() {
        if !known(reference) && (any || place > 0) {
            continue;
        }
        for (row, other) in rows.iter().filter(|(row, _)| row != reference) {
            let seeds = first.iter().cloned().zip(other.iter().cloned());
            let (first, other): (Vec<_>, Vec<_>) = seeds.filter_map(|(a, b)| a.zip(b)).unzip();
            let shared = first.len();
            let both = common([first, other].concat());
            let (first, other) = both.split_at(shared);
            if first.iter().all(Vec::is_empty) {
                continue;
            }
            found.push(PairedTest {
                reference: reference.clone(),
                row: row.clone(),
                column: column.into(),
                differences: differences(first, other, bins, bootstrap),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let found = paired_tests("OBQA", &tests, 15, Bootstrap::default());
        assert_eq!(found.len(), 1);
        let [accuracy, ..] = found[0].differences;
        assert_eq!(
            (found[0].row.as_str(), accuracy.estimate.value),
            ("Same", Some(0.0))
        );
    }
}
