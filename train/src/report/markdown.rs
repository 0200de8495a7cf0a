//! `report.md`: the figures as text.

use std::fmt::Write;

use super::figures::{CONFIDENCES, Line, Unit, calibrated_lines, lines, number, show};
use super::{PROMISES_ABOUT, PROMISES_TITLE, PROMPT, Report};
use crate::posthoc::abstention::PROMISES;

pub(super) fn render(report: &Report) -> String {
    let mut text = format!("# {}\n\n", report.title());
    if report.made_up() {
        text += "**Not a result.** The model or the data of this run were made up to test the program.\n\n";
    }
    text += "| | tuned | base | knowing nothing |\n|---|---:|---:|---|\n";
    for line in report.headlines() {
        let nothing = line.nothing.map_or("–".into(), |(who, value)| {
            format!("{} ({who})", number(value, line.unit))
        });
        let name = match line.unit {
            Unit::Percent => format!("{}, %", line.name),
            Unit::Plain => line.name.into(),
        };
        let shown = [line.tuned, line.base].map(|e| show(Some(e), line.unit));
        let _ = writeln!(text, "| {name} | {} | {nothing} |", shown.join(" | "));
    }
    text.push('\n');
    let sentences = report.headlines().map(|line| line.sentence);
    for sentence in sentences.into_iter().chain(report.remarks()) {
        text += &sentence;
        text.push('\n');
    }
    let scored = report.scored;
    let heads = ["base", "tuned"];
    let n = scored.tuned.n;
    text += &table(
        &format!("Test (n = {n})"),
        heads,
        &lines(&scored.base, &scored.tuned),
    );
    if report.calibrates() {
        let held_out = lines(&scored.base_held_out, &scored.tuned_held_out);
        let title = format!("Held-out (n = {})", scored.tuned_held_out.n);
        text += &table(&title, heads, &held_out);
        text += &table(
            "Test, after calibration on held-out questions",
            ["temperature", "confidence with FLU"],
            &calibrated_lines(&scored.calibrated),
        );
    }
    let confidences = report.confidences();
    if !confidences.is_empty() {
        let (title, heads) = CONFIDENCES;
        let _ = write!(
            text,
            "\n## {title}\n\n| {} |\n|---|---:|---:|\n",
            heads.join(" | ")
        );
        for line in confidences {
            let _ = writeln!(text, "| {} | {} |", line.name, line.cells.join(" | "));
        }
    }
    text.push('\n');
    for sentence in report.calibration() {
        text += &sentence;
        text.push('\n');
    }
    let promises = report.promises();
    if !promises.is_empty() {
        let _ = write!(
            text,
            "\n## {PROMISES_TITLE}\n\n{PROMISES_ABOUT}\n\n| {} |\n|---:|---:|---:|---:|\n",
            PROMISES.join(" | ")
        );
        for cells in promises {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    text += "\n## How it was made\n\n";
    for (name, value) in report.facts().iter().chain(&report.sources()) {
        let _ = writeln!(text, "- {name}: {value}");
    }
    if let Some(prompt) = &report.provenance.prompt {
        // Four spaces make a code block of any text.
        let lines: Vec<String> = prompt.lines().map(|line| format!("    {line}")).collect();
        let _ = writeln!(text, "\n## {PROMPT}\n\n{}", lines.join("\n"));
    }
    text
}

fn table(title: &str, [left, right]: [&str; 2], lines: &[Line]) -> String {
    let mut text =
        format!("\n## {title}\n\n| figure | {left} | {right} | better |\n|---|---:|---:|---|\n");
    for line in lines {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            line.head(),
            show(line.base, line.unit),
            show(line.tuned, line.unit),
            line.better
        );
    }
    text
}
