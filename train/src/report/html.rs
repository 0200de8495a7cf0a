//! `report.html`: four figures and what they say, pictures, tables, errors, how it was made.

use super::figures::{CONFIDENCES, Line, Unit, calibrated_lines, lines, number, show};
use super::glossary::explained;
use super::shell::{self, Card, cards, figures, folded, part, small, table};
use super::summary::Headline;
use super::{PROMISES_ABOUT, PROMISES_TITLE, PROMPT, Report, escape::escape, plot};
use crate::error::TrainError;
use crate::posthoc::abstention::PROMISES;

pub(super) fn render(report: &Report) -> Result<String, TrainError> {
    let parts = [
        head(report),
        part("pictures", "Test questions in pictures", &pictures(report)?),
        part("figures", "Every figure", &tables(report)),
        errors(report),
        part("provenance", "How it was made", &provenance(report)),
    ];
    Ok(shell::page(&report.title(), &parts.concat()))
}

/// Title, the four figures, and what else there is to say at once.
fn head(report: &Report) -> String {
    let mut text = format!(
        "<h1>How far can this confidence be trusted?</h1><p>{}, {} test questions</p>\n",
        escape(&report.title()),
        report.scored.tuned.n
    );
    if report.made_up() {
        text += "<p class=made-up><b>Not a result.</b> The model or the data of this run were made up to test the program; its figures mean nothing.</p>\n";
    }
    text += &cards(&report.headlines().map(card), false);
    let sentences = report.remarks();
    text += &sentences
        .iter()
        .map(|sentence| format!("<p>{}</p>\n", explained(sentence)))
        .collect::<String>();
    text
}

fn card(line: Headline) -> Card {
    let sign = match line.unit {
        Unit::Percent => " %",
        Unit::Plain => "",
    };
    let shown = |value: f64| number(value, line.unit) + sign;
    let mut beside = Vec::new();
    if let (Some(low), Some(high)) = (line.tuned.low, line.tuned.high) {
        let [low, high] = [low, high].map(|value| number(value, line.unit));
        beside.push(("95 %".to_owned(), format!("{low} to {high}{sign}")));
    }
    if let Some(base) = line.base.value {
        beside.push(("base".into(), shown(base)));
    }
    if let Some((who, value)) = line.nothing {
        beside.push((who.into(), shown(value)));
    }
    Card {
        name: line.name.into(),
        value: line.tuned.value.map_or("–".into(), shown),
        beside,
        sentence: line.sentence,
    }
}

/// Figures of two models, or of two ways to trust one.
fn compared(heads: [&str; 2], lines: &[Line]) -> String {
    let [left, right] = heads.map(str::to_owned);
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| {
            let figures = [line.base, line.tuned].map(|figure| show(figure, line.unit));
            let [base, tuned] = figures;
            vec![line.head(), base, tuned, line.better.into()]
        })
        .collect();
    table(&["Figure".into(), left, right, "better".into()], &rows, 1)
}

fn tables(report: &Report) -> String {
    let scored = report.scored;
    let n = scored.tuned.n;
    let heads = ["base model", "tuned model"];
    let mut text = folded(
        &format!("Test questions (n = {n})"),
        &compared(heads, &lines(&scored.base, &scored.tuned)),
        true,
    );
    text += &small(&format!(
        "Brackets: 95 % bootstrap interval over questions ({} resamples). ECE and MCE: {} bins of equal width over the confidence in the answer. Nothing was selected on the test questions.",
        report.config.evaluation.bootstrap, report.config.evaluation.bins
    ));
    if report.calibrates() {
        let calibrated = compared(
            ["temperature", "confidence with FLU"],
            &calibrated_lines(&scored.calibrated),
        );
        let sentences: String = report.calibration().iter().map(|s| small(s)).collect();
        text += &folded(
            &format!("After calibration on held-out questions (n = {n})"),
            &(calibrated + &sentences),
            true,
        );
    }
    text += &confidences(report);
    text += &promises(report);
    if report.calibrates() {
        let held_out = lines(&scored.base_held_out, &scored.tuned_held_out);
        text += &folded(
            &format!("Held-out questions (n = {})", scored.tuned_held_out.n),
            &compared(heads, &held_out),
            false,
        );
    }
    text
}

fn confidences(report: &Report) -> String {
    let (title, heads) = CONFIDENCES;
    let rows: Vec<Vec<String>> = report
        .confidences()
        .into_iter()
        .map(|line| {
            std::iter::once(line.name.into())
                .chain(line.cells)
                .collect()
        })
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => folded(title, &table(&heads.map(String::from), &rows, 1), true),
    }
}

fn promises(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report.promises().iter().map(|row| row.to_vec()).collect();
    match rows.is_empty() {
        true => String::new(),
        false => {
            let found = table(&PROMISES.map(String::from), &rows, 0);
            folded(PROMISES_TITLE, &(small(PROMISES_ABOUT) + &found), true)
        }
    }
}

fn pictures(report: &Report) -> Result<String, TrainError> {
    let (scored, bins) = (report.scored, report.config.evaluation.bins);
    let mut found = vec![
        plot::reliability_diagram(
            "Tuned model: accuracy by confidence",
            &scored.tuned_rows,
            bins,
        )?,
        plot::reliability_diagram(
            "Base model: accuracy by confidence",
            &scored.base_rows,
            bins,
        )?,
        plot::risk_coverage_curve(&scored.base_rows, &scored.tuned_rows)?,
    ];
    found.extend(plot::flu_diagram(
        "Tuned model: accuracy by FLU",
        &scored.tuned_rows,
        bins,
    )?);
    found.extend(plot::flu_histogram(&scored.tuned_rows)?);
    found.extend(plot::history(
        "Loss terms in training",
        &report.history,
        &[
            ("train", "cross_entropy", "cross-entropy"),
            ("train", "choice_loss", "loss over choices"),
            ("train", "mmce", "MMCE"),
            ("train", "load_balancing_loss", "load balancing"),
            ("train", "calibration_loss", "calibration"),
            ("held_out", "negative_log_likelihood", "held-out NLL"),
        ],
    )?);
    found.extend(plot::history(
        "Accuracy, ECE and FLU in training",
        &report.history,
        &[
            ("train", "accuracy", "accuracy"),
            ("held_out", "accuracy", "held-out accuracy"),
            ("train", "flu", "FLU"),
            ("held_out", "flu", "held-out FLU"),
            ("held_out", "expected_calibration_error", "held-out ECE"),
        ],
    )?);
    let about = "A blue bar is the accuracy of a bin. Orange fills the gap to its mean confidence: above the bar where the model is over-confident, inside it where it is under-confident. Below: how many questions each bin holds. Training curves are smoothed.";
    Ok(small(about) + &figures(&found))
}

fn errors(report: &Report) -> String {
    if report.worst.is_empty() {
        return String::new();
    }
    let heads = ["Question", "said", "right", "confidence, %", "FLU, %"].map(String::from);
    let rows: Vec<Vec<String>> = report
        .worst
        .iter()
        .map(|found| {
            let [said, right] = found.answers().map(str::to_owned);
            let share = |value: f64| number(value, Unit::Percent);
            let confidence = share(found.row.confidence());
            let flu = found.row.flu.map_or("–".into(), share);
            vec![
                found.question.question.clone(),
                said,
                right,
                confidence,
                flu,
            ]
        })
        .collect();
    part("errors", "Most confident errors", &table(&heads, &rows, 3))
}

fn provenance(report: &Report) -> String {
    let facts = report.facts().into_iter().chain(report.sources());
    let facts: String = facts
        .map(|(name, value)| format!("<dt>{}</dt><dd>{}</dd>", escape(&name), escape(&value)))
        .collect();
    let mut text = format!("<dl class=facts>{facts}</dl>\n");
    if let Some(prompt) = &report.provenance.prompt {
        text += &folded(PROMPT, &format!("<pre>{}</pre>\n", escape(prompt)), true);
    }
    let settings = format!("<pre>{}</pre>\n", escape(&report.config.to_toml()));
    text + &folded("Settings (config.toml)", &settings, false)
}
