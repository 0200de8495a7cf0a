//! A table as LaTeX, in the paper's layout.

use std::fmt::Write;

use super::{Place, all_places, number};
use crate::reproduce::figure::Figure;
use crate::reproduce::results::{ResultTable, Value};

/// The text with LaTeX's own characters as themselves.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '_' | '%' | '&' | '#' | '$' | '{' | '}' => escaped.extend(['\\', character]),
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            other => escaped.push(other),
        }
    }
    escaped
}

/// The paper's two figures in its layout, for `booktabs`.
pub fn latex(table: &ResultTable) -> String {
    let columns = table.columns.len();
    let mut text = format!(
        "\\begin{{table}}\n\\centering\n\\caption{{{}}}\n\\begin{{tabular}}{{ll{}}}\n\\toprule\n",
        escape(&[&*table.title, ". ", &table.caption.join(" ")].concat()),
        "r".repeat(columns)
    );
    let heads: Vec<String> = table.columns.iter().map(|c| escape(c)).collect();
    let first = table.sweep.as_deref().unwrap_or("Method");
    let _ = writeln!(text, "Metric & {first} & {} \\\\", heads.join(" & "));
    for figure in [Figure::Accuracy, Figure::Ece] {
        text += "\\midrule\n";
        let by_column = all_places(table, figure);
        for (r, row) in table.rows.iter().enumerate() {
            let arrow = if figure.higher_is_better() {
                "\\uparrow"
            } else {
                "\\downarrow"
            };
            let head = match r {
                0 => format!("{} ${arrow}$", figure.name()),
                _ => String::new(),
            };
            let cells: Vec<String> = table
                .columns
                .iter()
                .zip(&by_column)
                .map(|(column, places)| latex_cell(table.value(row, column, figure), places[r]))
                .collect();
            let _ = writeln!(
                text,
                "{head} & {} & {} \\\\",
                escape(row),
                cells.join(" & ")
            );
        }
    }
    text += "\\bottomrule\n\\end{tabular}\n\\end{table}\n";
    text
}

fn latex_cell(value: Option<&Value>, place: Place) -> String {
    let Some(value) = value else {
        return "--".into();
    };
    let mean = number(value.figure, value.over_seeds.mean);
    let mean = match place {
        Place::Best => format!("\\mathbf{{{mean}}}"),
        Place::Second => format!("\\underline{{{mean}}}"),
        Place::Other => mean,
    };
    let deviation = value.over_seeds.deviation;
    let below = deviation.map_or(String::new(), |deviation| {
        format!("_{{{}}}", number(value.figure, deviation))
    });
    let paper = value.paper.map_or(String::new(), |paper| {
        format!(" [{}]", number(value.figure, paper))
    });
    format!("${mean}{below}${paper}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_characters_are_written_as_themselves() {
        let text = escape("C#_1 & {50 %} for $2, ~x^y\\z");
        let expected =
            r"C\#\_1 \& \{50 \%\} for \$2, \textasciitilde{}x\textasciicircum{}y\textbackslash{}z";
        assert_eq!(text, expected);
    }
}
