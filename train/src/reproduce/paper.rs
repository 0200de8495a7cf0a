//! The values that the paper prints: accuracy and ECE in percent.

/// Accuracy and ECE of a row and column of a table, if the paper has them.
pub fn value(table: &str, row: &str, column: &str) -> Option<(f64, f64)> {
    let (columns, rows): (&[&str], &[Printed]) = match table {
        "table1" => (SHIFTS, TABLE_1),
        "table2" => (&["OBQA"], TABLE_2),
        "table3" => (TASKS, TABLE_3),
        "table4" => (TASKS, TABLE_4),
        "table5" => (&["OBQA"], TABLE_5),
        "table6" => (TASKS, TABLE_6),
        // Figure 3 is bars only; its UQ4CT row stands in table 3.
        "fig3" if row == "UQ4CT" => (TASKS, TABLE_3),
        _ => return None,
    };
    let place = columns.iter().position(|known| *known == column)?;
    let (_, accuracy, ece) = rows.iter().find(|(label, _, _)| *label == row)?;
    Some((accuracy[place], ece[place]))
}

type Printed = (&'static str, &'static [f64], &'static [f64]);

const SHIFTS: &[&str] = &["OBQA", "ARC-C", "ARC-E", "CS", "Eng", "Law", "Health"];
const TASKS: &[&str] = &["BoolQ", "ARC-E", "ARC-C", "OBQA", "ClimateQA"];

const TABLE_1: &[Printed] = &[
    (
        "LoRA",
        &[72.1, 58.6, 66.5, 35.5, 30.8, 34.9, 39.1],
        &[10.2, 16.7, 13.3, 29.7, 32.3, 29.2, 31.0],
    ),
    (
        "MC Drop",
        &[74.8, 58.7, 66.6, 36.0, 30.3, 35.1, 39.1],
        &[10.9, 16.7, 13.2, 23.2, 31.6, 28.0, 25.9],
    ),
    (
        "Ensemble",
        &[75.5, 57.7, 69.1, 36.7, 30.3, 35.3, 39.9],
        &[8.83, 15.1, 11.1, 22.4, 28.5, 29.0, 24.5],
    ),
    (
        "LA",
        &[70.8, 58.7, 67.9, 33.7, 29.6, 35.4, 38.5],
        &[17.2, 16.2, 24.4, 28.6, 30.5, 29.5, 30.7],
    ),
    (
        "MixLoRA",
        &[75.5, 58.5, 69.2, 35.2, 30.3, 35.9, 40.6],
        &[12.9, 19.0, 14.5, 26.4, 33.7, 30.3, 28.3],
    ),
    (
        "UQ4CT",
        &[77.3, 58.8, 65.8, 36.2, 34.1, 35.8, 40.0],
        &[5.0, 8.9, 6.5, 19.6, 23.1, 25.9, 21.9],
    ),
];

const TABLE_2: &[Printed] = &[
    ("0", &[75.5], &[12.9]),
    ("0.2", &[76.0], &[7.47]),
    ("0.5", &[75.9], &[7.82]),
    ("0.8", &[76.6], &[5.94]),
    ("1", &[77.3], &[5.0]),
    ("1.2", &[77.9], &[6.49]),
    ("1.5", &[77.2], &[9.19]),
    ("1.8", &[76.7], &[8.11]),
    ("2", &[76.6], &[6.65]),
];

const TABLE_3: &[Printed] = &[
    (
        "UQ4CT",
        &[73.5, 76.6, 52.8, 77.3, 63.3],
        &[2.30, 6.00, 6.11, 5.01, 8.10],
    ),
    (
        "UQ4CT_Incremental",
        &[72.0, 75.4, 54.6, 77.6, 60.2],
        &[4.0, 9.8, 13.8, 10.3, 12.2],
    ),
];

const TABLE_4: &[Printed] = &[
    (
        "LoRA",
        &[70.3, 84.8, 70.2, 82.8, 72.5],
        &[10.17, 9.46, 18.42, 13.3, 13.72],
    ),
    (
        "MC Drop",
        &[69.6, 84.6, 69.6, 82.6, 72.5],
        &[10.62, 8.91, 18.38, 13.3, 13.72],
    ),
    (
        "Ensemble",
        &[71.8, 84.2, 71.0, 82.5, 72.9],
        &[8.72, 8.72, 17.0, 9.14, 12.86],
    ),
    (
        "LA",
        &[70.7, 82.4, 68.5, 82.5, 71.6],
        &[5.33, 20.3, 21.27, 6.41, 14.64],
    ),
    (
        "MixLoRA",
        &[73.1, 85.5, 71.2, 83.3, 72.0],
        &[8.81, 8.16, 15.51, 10.53, 14.05],
    ),
    (
        "UQ4CT",
        &[73.60, 85.90, 74.40, 83.71, 73.21],
        &[3.07, 5.70, 7.04, 7.92, 11.41],
    ),
];

const TABLE_5: &[Printed] = &[
    ("1", &[74.8], &[7.69]),
    ("2", &[77.3], &[5.0]),
    ("3", &[75.2], &[5.8]),
    ("4", &[75.8], &[7.67]),
    ("5", &[75.3], &[6.29]),
];

const TABLE_6: &[Printed] = &[
    (
        "SPUQ",
        &[62.20, 75.14, 45.99, 59.00, 60.64],
        &[30.47, 13.13, 24.74, 20.00, 19.98],
    ),
    (
        "UQ4CT",
        &[73.5, 76.6, 52.8, 77.3, 63.3],
        &[2.3, 6.0, 6.1, 5.0, 8.1],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reproduce::TABLES;

    #[test]
    fn every_printed_row_belongs_to_a_row_of_its_table() {
        for table in TABLES {
            let labels: Vec<String> = table.rows.all().into_iter().map(|row| row.label).collect();
            let printed = match table.name {
                "table1" => TABLE_1,
                "table2" => TABLE_2,
                "table3" => TABLE_3,
                "table4" => TABLE_4,
                "table5" => TABLE_5,
                "table6" => TABLE_6,
                _ => continue,
            };
            for (label, accuracy, ece) in printed {
                assert!(labels.iter().any(|known| known == label), "{label}");
                assert_eq!(accuracy.len(), table.columns.len());
                assert_eq!(ece.len(), table.columns.len());
            }
        }
        assert_eq!(value("table1", "UQ4CT", "Law"), Some((35.8, 25.9)));
        assert_eq!(value("fig3", "LoRA", "OBQA"), None);
    }
}
