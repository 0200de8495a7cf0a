//! The paired tests of a table as Markdown.

use std::fmt::Write;

use crate::metric::Estimate;
use crate::metric::paired::Difference;
use crate::reproduce::paired_tests::PairedTest;
use crate::reproduce::results::ResultTable;

/// What the paired tests print, with the row of the Differences and whether it is a share.
const TESTED: [(&str, usize, bool); 3] = [("ACC", 0, true), ("ECE", 1, true), ("NLL", 2, false)];

/// Every row less LoRA, and less MixLoRA, with 95 % intervals of the paired bootstrap; nothing
/// where neither has been evaluated.
pub fn paired_tests(table: &ResultTable) -> Option<String> {
    let mut references: Vec<&str> = table.tests.iter().map(|t| t.reference.as_str()).collect();
    references.dedup();
    references.sort_unstable();
    references.dedup();
    // Means over columns come after the columns.
    let mut columns: Vec<&str> = table.columns.iter().map(String::as_str).collect();
    for test in &table.tests {
        if !columns.contains(&&*test.column) {
            columns.push(&test.column);
        }
    }
    let mut text = format!("# {}: paired differences\n", table.title);
    for reference in &references {
        let _ = writeln!(text, "\n| | minus {reference} | {} |", columns.join(" | "));
        let _ = writeln!(text, "|---|---|{}", "---:|".repeat(columns.len()));
        for (name, place, share) in TESTED {
            for row in table.rows.iter().filter(|row| row != reference) {
                let tested = |test: &&PairedTest| test.reference == *reference && test.row == *row;
                if !table.tests.iter().any(|test| tested(&test)) {
                    continue;
                }
                let cells = columns.iter().map(|column| {
                    let mut tests = table.tests.iter().filter(tested);
                    let found = tests.find(|test| test.column == *column);
                    found.map_or("–".into(), |test| {
                        difference(&test.differences[place], share)
                    })
                });
                let cells: Vec<String> = cells.collect();
                let _ = writeln!(text, "| {name} | {row} | {} |", cells.join(" | "));
            }
        }
    }
    let _ = writeln!(
        text,
        "\nIn brackets the 95 % interval of the paired bootstrap over questions ({} resamples; averaged over the seeds that both rows have); bold where it excludes zero, which one in twenty does by chance. An ECE is too large on few questions, the more so the better the calibration and the wider the confidences are spread: no interval mends that.",
        table.resamples
    );
    (!references.is_empty()).then_some(text)
}

/// Zero has no sign.
fn signed(number: String) -> String {
    match number[1..].trim_matches(['0', '.']).is_empty() {
        true => number[1..].to_owned(),
        false => number,
    }
}

/// `+1.5 [-0.5, 3.5]`, bold where the interval excludes zero.
fn difference(found: &Difference, share: bool) -> String {
    let number = |value: Option<f64>| match (value, share) {
        (Some(v), true) => signed(format!("{:+.1}", v * 100.0)),
        (Some(v), false) => signed(format!("{v:+.3}")),
        (None, _) => "–".into(),
    };
    let Estimate { value, low, high } = found.estimate;
    let [value, low, high] = [value, low, high].map(number);
    let text = format!("{value} [{low}, {high}]");
    // By what is printed: zero has no sign.
    match low.starts_with('+') || high.starts_with('-') {
        true => format!("**{text}**"),
        false => text,
    }
}
