//! A table of one's own: settings that are varied over one dataset, as rows of a plan.
//!
//! The plan's rules hold: what has been trained is found again by its content, a stopped sweep goes
//! on, and several sweeps share trainings.

use toml::{Table as Toml, Value};

use super::tables::{Column, Layout, Row, Rows, Table};
use crate::config::spelled;
use crate::error::TrainError;
use crate::run_directory::HELD_OUT;

/// A setting and the values that it takes in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Varied {
    /// The dotted key.
    pub key: String,
    /// The values, as a file of settings has them.
    pub values: Vec<String>,
}

impl Varied {
    /// Reads `section.key=value,value`. Values that are lists stand in brackets.
    ///
    /// # Errors
    /// Something else, or a value that stands twice.
    pub fn read(text: &str) -> Result<Self, TrainError> {
        let wrong = |reason: &str| {
            let reason = format!("{reason}, such as train.learning_rate=1e-4,2e-4");
            TrainError::config(format!("--sweep {text}"), reason)
        };
        let (key, values) = text
            .split_once('=')
            .filter(|(key, _)| key.contains('.'))
            .ok_or_else(|| wrong("expected section.key=value,value"))?;
        let list = format!("v = [{values}]").parse::<Toml>().ok();
        let values: Vec<String> = match list.and_then(|mut table| table.remove("v")) {
            // As typed, but for lists: `1e-4` stays `1e-4` in the table.
            Some(Value::Array(list)) if list.iter().any(Value::is_array) => {
                list.iter().map(spelled).collect()
            }
            _ => values.split(',').map(|value| value.trim().into()).collect(),
        };
        let twice = |place: usize| values[..place].contains(&values[place]);
        if values.iter().any(String::is_empty) || (0..values.len()).any(twice) {
            return Err(wrong("expected different values"));
        }
        Ok(Self {
            key: key.trim().into(),
            values,
        })
    }
}

/// The table of every combination of values, one row each, on one dataset: its test questions, and
/// the held-out ones to choose by. It lives as long as the program, as the listed ones do.
///
/// # Errors
/// A key that is varied twice, or one that changes no answer.
pub fn table(
    varied: &[Varied],
    preset: &'static str,
    dataset: &'static str,
    label: &str,
) -> Result<&'static Table, TrainError> {
    let mut rows = vec![(Vec::<String>::new(), Vec::<String>::new())];
    for (place, Varied { key, values }) in varied.iter().enumerate() {
        if varied[..place].iter().any(|other| other.key == *key) {
            let reason = "is varied twice: give all of its values at once";
            return Err(TrainError::config(format!("--sweep {key}"), reason));
        }
        if [
            "evaluation.bins",
            "evaluation.bootstrap",
            "evaluation.batch_tokens",
        ]
        .contains(&&**key)
        {
            let reason = "changes no answer: give all rows the same, with --set";
            return Err(TrainError::config(format!("--sweep {key}"), reason));
        }
        let short = key.rsplit('.').next().unwrap_or(key);
        let name = |value: &String| format!("{short} {value}");
        rows = rows
            .iter()
            .flat_map(|(names, set)| {
                values.iter().map(move |value| {
                    let names = [&names[..], &[name(value)]].concat();
                    let set = [&set[..], &[format!("{key}={value}")]].concat();
                    (names, set)
                })
            })
            .collect();
    }
    let rows = rows.into_iter().map(|(names, set)| Row {
        control: None,
        label: names.join(", "),
        preset,
        set,
    });
    let keys: Vec<&str> = varied.iter().map(|varied| &*varied.key).collect();
    let leaked = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let column = |label: String, test| Column {
        label: leaked(label),
        train: dataset,
        test,
        stand_in: None,
    };
    let columns = vec![
        column(label.into(), dataset),
        column(format!("{label}, held out"), HELD_OUT),
    ];
    Ok(Box::leak(Box::new(Table {
        name: "sweep",
        title: leaked(format!("{preset} by {}", keys.join(", "))),
        paper_model: "",
        rows: Rows::Given(rows.collect()),
        columns: Box::leak(columns.into_boxed_slice()),
        // Values such as 1e-4 and 1e-3, or words, have no common scale to draw curves over.
        layout: Layout::Methods,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_a_row() {
        let read = |text: &str| Varied::read(text).unwrap();
        let rates = read("train.learning_rate=1e-4, 2e-4");
        assert_eq!(rates.values, ["1e-4", "2e-4"]);
        let targets = read("adapter.target_modules=['q_proj'],['q_proj', 'v_proj']");
        assert_eq!(targets.values.len(), 2);
        let both = table(&[rates.clone(), targets], "lora", "boolq", "BoolQ").unwrap();
        let rows = both.rows.all();
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[1].set[0], "train.learning_rate=1e-4");
        assert!(
            rows[3]
                .label
                .starts_with("learning_rate 2e-4, target_modules")
        );
        let one = table(std::slice::from_ref(&rates), "lora", "boolq", "BoolQ").unwrap();
        assert_eq!(one.rows.all()[1].label, "learning_rate 2e-4");
        assert!(table(&[rates.clone(), rates], "lora", "boolq", "BoolQ").is_err());
        let bins = read("evaluation.bins=10,15");
        let error = table(&[bins], "lora", "boolq", "BoolQ").unwrap_err();
        assert!(error.to_string().contains("changes no answer"), "{error}");
        for wrong in ["train", "epochs=1,2", "train.epochs=1,1", "train.epochs=1,"] {
            assert!(Varied::read(wrong).is_err(), "{wrong}");
        }
    }
}
