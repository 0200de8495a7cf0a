//! The choices of a row, in the shapes in which files hold them.

use serde_json::Value;

use super::super::fields::{LabelledChoices, labelled_lists};

/// The choices of a row, from the one field that lists them or from a field for each.
pub(super) fn read(row: &Value, fields: &[String]) -> Result<Vec<String>, String> {
    let [field] = fields else {
        return each(row, fields);
    };
    let found = row.get(field).ok_or_else(|| {
        let reason = missing(row, field, "choices");
        format!("{reason} (open-ended questions: data.custom.written = true)")
    })?;
    if let Some(labelled) = labelled(field, found) {
        let (_, texts) = labelled?;
        let texts = texts.iter().enumerate();
        return texts.map(|(i, text)| filled(field, i, text)).collect();
    }
    let list = match found {
        Value::Array(list) => list.clone(),
        // A cell of a csv file holds a list as JSON.
        Value::String(cell) => serde_json::from_str(cell).map_err(|_| {
            format!("{field}: expected a list such as [\"a\", \"b\"], got {cell:?}; several columns: data.custom.choices = [..] or --choices-field A,B")
        })?,
        other => return Err(format!("{field}: expected a list, got {other}")),
    };
    // Tables fill rows of few choices up with null.
    let end = list.iter().rposition(|value| !value.is_null());
    let list = list[..end.map_or(0, |end| end + 1)].iter().enumerate();
    list.map(|(i, value)| match value {
        Value::Null => filled(field, i, ""),
        value => filled(field, i, &plain(field, value)?),
    })
    .collect()
}

/// The labels of a row's choices, where the one field that lists them has some.
pub(super) fn labels(row: &Value, fields: &[String]) -> Option<Vec<String>> {
    let [field] = fields else {
        return None;
    };
    let (labels, _) = labelled(field, row.get(field)?)?.ok()?;
    Some(labels)
}

/// Choices with labels: `{"label": [..], "text": [..]}` as on the Hub, `{"A": .., "B": ..}`, or a
/// list of objects with `text` and, it may be, `label`.
fn labelled(field: &str, value: &Value) -> Option<Result<LabelledChoices, String>> {
    match value {
        Value::Object(fields) if fields.contains_key("text") || fields.contains_key("label") => {
            Some(labelled_lists(field, value))
        }
        Value::Object(fields) if !fields.is_empty() => {
            // Tables fill rows of few choices up with null.
            let there = fields.iter().filter(|(_, text)| !text.is_null());
            let mut there: Vec<(&String, &Value)> = there.collect();
            there.sort_by_key(|(label, _)| *label);
            let pairs = there.into_iter().zip('A'..='Z').map(|((label, text), letter)| {
                match label.len() == 1 && label.starts_with([letter, letter.to_ascii_lowercase()]) {
                    true => Ok((label.clone(), plain(field, text)?)),
                    false => Err(format!(
                        "{field}: expected a list, or an object of the choices A, B and so on, got {value}"
                    )),
                }
            });
            Some(
                pairs
                    .collect::<Result<Vec<_>, _>>()
                    .map(|pairs| pairs.into_iter().unzip()),
            )
        }
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            let one = |choice: &Value| {
                let of = |names: [&str; 3]| names.into_iter().find_map(|name| choice.get(name));
                let text = of(["text", "value", "content"]).ok_or_else(|| {
                    format!("{field}: expected choices with a text, got {choice}")
                })?;
                let label = of(["label", "key", "letter"]);
                let label = label.map_or(Ok(String::new()), |label| plain(field, label))?;
                Ok((label, plain(field, text)?))
            };
            let pairs: Result<Vec<_>, String> = list.iter().map(one).collect();
            Some(pairs.map(|pairs| pairs.into_iter().unzip()))
        }
        _ => None,
    }
}

fn each(row: &Value, fields: &[String]) -> Result<Vec<String>, String> {
    let choice = |field: &String| match row.get(field) {
        None => Err(missing(row, field, "choices")),
        Some(Value::Null) => Ok(String::new()),
        Some(value) => plain(field, value),
    };
    let mut choices = fields.iter().map(choice).collect::<Result<Vec<_>, _>>()?;
    // Empty cells at the end are absent choices; one before another choice would shift the letters.
    while choices.last().is_some_and(String::is_empty) {
        choices.pop();
    }
    match choices.iter().position(String::is_empty) {
        Some(gap) => Err(format!(
            "{}: is empty, but a later choice is not",
            fields[gap]
        )),
        None => Ok(choices),
    }
}

/// Whether a row's choices are numbers, not texts.
pub(super) fn numeric(row: &Value, fields: &[String]) -> bool {
    let number = |field: &String| match row.get(field) {
        Some(Value::Array(list)) => list.iter().any(Value::is_number),
        other => other.is_some_and(Value::is_number),
    };
    fields.iter().any(number)
}

/// The names of a row's fields, for an error about one that is not there.
fn fields_of(row: &Value) -> String {
    let names = row
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str());
    names.take(20).collect::<Vec<_>>().join(", ")
}

/// The error about a field that a row lacks, with the setting and the flag that name another.
pub(super) fn missing(row: &Value, field: &str, setting: &str) -> String {
    let flag = match setting {
        "passage" => "context",
        setting => setting,
    };
    format!(
        "{field}: is missing; the row has {}: name the field with data.custom.{setting} or --{flag}-field",
        fields_of(row)
    )
}

/// A choice of a list, which must say something to be chosen.
fn filled(field: &str, place: usize, text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err(format!("{field}: choice {} is empty", place + 1)),
        text => Ok(text.to_owned()),
    }
}

/// Whether whole numbers of this size are no longer told apart.
fn is_inexact(number: f64) -> bool {
    number.abs() >= 9_007_199_254_740_992.0
}

/// A text, or a number or truth value as text.
pub(super) fn plain(field: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.trim().to_owned()),
        // More digits than a float has are gone where the row was read.
        Value::Number(number) if number.is_f64() && number.as_f64().is_none_or(is_inexact) => {
            Err(format!(
                "{field}: {number} stands for a number of more digits than are kept: write it as text, in quotation marks"
            ))
        }
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(truth) => Ok(truth.to_string()),
        other => Err(format!("{field}: expected text, got {other}")),
    }
}
