//! `report.md`: the figures as text.

use std::fmt::Write;

use super::{Report, Unit, calibrated_lines, lines, show};

pub(super) fn render(report: &Report) -> String {
    let mut text = format!("# {}\n\n", report.title());
    if report.made_up() {
        text += "**Not a result.** The model or the data of this run were made up to test the program.\n\n";
    }
    for sentence in report.summary() {
        text += &sentence;
        text.push('\n');
    }
    let scored = report.scored;
    for (name, base, tuned) in [
        ("Test", &scored.base, &scored.tuned),
        ("Held-out", &scored.base_held_out, &scored.tuned_held_out),
    ] {
        let _ = write!(
            text,
            "\n## {name} (n = {})\n\n| figure | base | tuned | better |\n|---|---:|---:|---|\n",
            tuned.n
        );
        for line in lines(base, tuned) {
            let unit = if line.unit == Unit::Percent {
                ", %"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "| {}{unit} | {} | {} | {} |",
                line.name,
                show(line.base, line.unit),
                show(line.tuned, line.unit),
                line.better
            );
        }
    }
    let calibrated = &scored.calibrated;
    text += "\n## Test, after calibration on held-out questions\n\n| figure | temperature | confidence with FLU | better |\n|---|---:|---:|---|\n";
    for line in calibrated_lines(calibrated) {
        let unit = if line.unit == Unit::Percent {
            ", %"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "| {}{unit} | {} | {} | {} |",
            line.name,
            show(line.base, line.unit),
            show(line.tuned, line.unit),
            line.better
        );
    }
    text.push('\n');
    for sentence in report.calibration() {
        text += &sentence;
        text.push('\n');
    }
    text += "\n## How it was made\n\n";
    for (name, value) in report.facts().iter().chain(&report.sources()) {
        let _ = writeln!(text, "- {name}: {value}");
    }
    text
}
