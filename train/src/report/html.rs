//! `report.html`: one file, no scripts, no links to anywhere.

use std::fmt::Write;

use super::figures::{CONFIDENCES, Line, calibrated_lines, lines, show};
use super::{PROMISES_ABOUT, PROMISES_TITLE, PROMPT, Report, plot};
use crate::error::TrainError;
use crate::posthoc::abstention::PROMISES;

const STYLE: &str = "
body{font:16px/1.5 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1{font-size:1.6rem;margin-bottom:.2rem} h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.5rem 0;width:100%} td,th{padding:.25rem .6rem;text-align:left;border-bottom:1px solid #eee;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(400px,1fr));gap:.8rem} svg{max-width:100%;height:auto;border:1px solid #eee}
.made-up{background:#fff3cd;border:1px solid #e0c36a;padding:.6rem 1rem} .small{color:#666;font-size:.88rem}
pre{background:#f6f6f6;padding:.7rem 1rem;overflow-x:auto;font-size:.85rem} code{background:#f6f6f6;padding:0 .2rem}
";

pub(super) fn render(report: &Report) -> Result<String, TrainError> {
    let mut body = String::new();
    let title = escape(&report.title());
    push(
        &mut body,
        format!("<h1>How far can this confidence be trusted?</h1><p>{title}</p>"),
    );
    if report.made_up() {
        push(&mut body, "<p class=made-up><b>Not a result.</b> The model or the data of this run were made up to test the program; its figures mean nothing.</p>".into());
    }
    for sentence in report.summary() {
        push(&mut body, format!("<p>{}</p>", escape(&sentence)));
    }
    figures(&mut body, report);
    plots(&mut body, report)?;
    worst(&mut body, report);
    provenance(&mut body, report);
    Ok(page(&report.title(), &body))
}

/// A whole page around a body.
pub(crate) fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style></head>\n<body>\n{body}</body></html>\n"
    )
}

fn push(body: &mut String, text: String) {
    body.push_str(&text);
    body.push('\n');
}

fn table(title: &str, heads: [&str; 2], lines: &[Line]) -> String {
    let mut rows = String::new();
    for line in lines {
        let _ = write!(
            rows,
            "<tr><td>{}</td><td class=n>{}</td><td class=n>{}</td><td class=small>{}</td></tr>",
            escape(&line.head()),
            show(line.base, line.unit),
            show(line.tuned, line.unit),
            line.better
        );
    }
    let [left, right] = heads;
    format!(
        "<h2>{title}</h2><table><tr><th>Figure</th><th class=n>{left}</th><th class=n>{right}</th><th>better</th></tr>{rows}</table>"
    )
}

fn figures(body: &mut String, report: &Report) {
    let scored = report.scored;
    let n = scored.tuned.n;
    let heads = ["base model", "tuned model"];
    let title = format!("Test questions (n = {n})");
    push(
        body,
        table(&title, heads, &lines(&scored.base, &scored.tuned)),
    );
    if report.calibrates() {
        let calibrated = table(
            &format!("Test questions, after calibration on held-out questions (n = {n})"),
            ["temperature", "confidence with FLU"],
            &calibrated_lines(&scored.calibrated),
        );
        push(body, calibrated);
    }
    for sentence in report.calibration() {
        push(body, format!("<p class=small>{}</p>", escape(&sentence)));
    }
    confidences(body, report);
    promises(body, report);
    if report.calibrates() {
        let title = format!("Held-out questions (n = {})", scored.tuned_held_out.n);
        let held_out = lines(&scored.base_held_out, &scored.tuned_held_out);
        push(body, table(&title, heads, &held_out));
    }
    push(
        body,
        format!(
            "<p class=small>Brackets: 95 % bootstrap interval over questions ({} resamples). ECE and MCE: {} bins of equal width over the confidence in the answer. Nothing was selected on the test questions.</p>",
            report.config.evaluation.bootstrap, report.config.evaluation.bins
        ),
    );
}

fn confidences(body: &mut String, report: &Report) {
    let (title, [name, ece, auroc]) = CONFIDENCES;
    let rows: String = report
        .confidences()
        .iter()
        .map(|line| {
            let [ece, auroc] = &line.cells;
            format!(
                "<tr><td>{}</td><td class=n>{ece}</td><td class=n>{auroc}</td></tr>",
                line.name
            )
        })
        .collect();
    if !rows.is_empty() {
        push(
            body,
            format!(
                "<h2>{title}</h2><table><tr><th>{name}</th><th class=n>{ece}</th><th class=n>{auroc}</th></tr>{rows}</table>"
            ),
        );
    }
}

fn promises(body: &mut String, report: &Report) {
    let cells = |tag: &str, cells: &[String]| -> String {
        let one = |cell: &String| format!("<{tag} class=n>{}</{tag}>", escape(cell));
        format!("<tr>{}</tr>", cells.iter().map(one).collect::<String>())
    };
    let rows: String = report
        .promises()
        .iter()
        .map(|line| cells("td", line))
        .collect();
    if !rows.is_empty() {
        let head = cells("th", &PROMISES.map(String::from));
        push(
            body,
            format!(
                "<h2>{PROMISES_TITLE}</h2><p class=small>{}</p><table>{head}{rows}</table>",
                escape(PROMISES_ABOUT)
            ),
        );
    }
}

fn plots(body: &mut String, report: &Report) -> Result<(), TrainError> {
    let (scored, bins) = (report.scored, report.config.evaluation.bins);
    let mut found = vec![
        plot::reliability_diagram(
            "Base model: accuracy by confidence",
            &scored.base_rows,
            bins,
        )?,
        plot::reliability_diagram(
            "Tuned model: accuracy by confidence",
            &scored.tuned_rows,
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
            ("held_out", "expected_calibration_error", "held-out ECE"),
        ],
    )?);
    push(body, "<h2>Test questions in pictures</h2><p class=small>Bars reach the accuracy of a bin; the shaded part runs from there to its mean confidence (orange: over-confident, green: under-confident). Numbers over the bars count questions; the line is perfect calibration.</p>".into());
    push(body, format!("<div class=plots>{}</div>", found.join("\n")));
    Ok(())
}

fn worst(body: &mut String, report: &Report) {
    if report.worst.is_empty() {
        return;
    }
    let mut rows = String::new();
    for found in &report.worst {
        let [said, right] = found.answers();
        let flu = found
            .row
            .flu
            .map_or("–".into(), |flu| format!("{:.1}", flu * 100.0));
        let _ = write!(
            rows,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=n>{:.1}</td><td class=n>{flu}</td></tr>",
            escape(&found.question.question),
            escape(said),
            escape(right),
            found.row.confidence() * 100.0
        );
    }
    push(
        body,
        format!(
            "<h2>Most confident errors</h2><table><tr><th>Question</th><th>said</th><th>right</th><th class=n>confidence, %</th><th class=n>FLU, %</th></tr>{rows}</table>"
        ),
    );
}

fn provenance(body: &mut String, report: &Report) {
    let row = |(name, value): &(String, String)| {
        format!(
            "<tr><td>{}</td><td>{}</td></tr>",
            escape(name),
            escape(value)
        )
    };
    let facts: String = report
        .facts()
        .iter()
        .chain(&report.sources())
        .map(row)
        .collect();
    push(
        body,
        format!("<h2>How it was made</h2><table>{facts}</table>"),
    );
    if let Some(prompt) = &report.provenance.prompt {
        let prompt = escape(prompt);
        push(body, format!("<h2>{PROMPT}</h2><pre>{prompt}</pre>"));
    }
    push(
        body,
        format!(
            "<details><summary>Settings (config.toml)</summary><pre>{}</pre></details>",
            escape(&report.config.to_toml())
        ),
    );
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
