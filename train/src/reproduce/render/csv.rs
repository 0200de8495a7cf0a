//! A table as CSV.

use std::fmt::Write;

use crate::reproduce::results::ResultTable;

/// One line a figure and cell.
pub fn csv(table: &ResultTable) -> String {
    let mut text = String::from("table,row,column,figure,mean,deviation,seeds,n,paper\n");
    // The last digits of a sum differ between machines.
    let short = |v: f64| format!("{v:.6}");
    let plain = |value: Option<f64>| value.map_or(String::new(), short);
    let quoted = |field: &str| match field.contains([',', '"']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    };
    for cell in &table.cells {
        for value in &cell.values {
            let _ = writeln!(
                text,
                "{},{},{},{},{},{},{},{},{}",
                table.name,
                quoted(&cell.row),
                quoted(&cell.column),
                quoted(value.figure.name()),
                short(value.over_seeds.mean),
                plain(value.over_seeds.deviation),
                cell.seeds,
                cell.n,
                plain(value.paper)
            );
        }
    }
    text
}
