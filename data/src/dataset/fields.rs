//! Fields of a JSON row, and the shapes in which lettered questions are published.

use serde_json::Value;

use crate::example::MultipleChoice;
use crate::seed::hash_name;

/// A required text field.
pub(super) fn text<'a>(row: &'a Value, field: &str) -> Result<&'a str, String> {
    match row.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("{field}: expected text, got {other}")),
        None => Err(format!("{field}: is missing")),
    }
}

/// A text field that rows may lack.
pub(super) fn optional_text(row: &Value, field: &str) -> Option<String> {
    row.get(field).and_then(Value::as_str).map(str::to_owned)
}

/// A required list of texts.
pub(super) fn texts(row: &Value, field: &str) -> Result<Vec<String>, String> {
    let list = row.get(field).and_then(Value::as_array);
    list.and_then(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect())
        .ok_or_else(|| format!("{field}: expected a list of texts"))
}

/// A class as the Hub writes it, a number or its text; none where the row is unlabelled: -1, or
/// nothing.
pub(super) fn class(field: &str, row: &Value) -> Result<Option<usize>, String> {
    let wrong = |found: &dyn std::fmt::Display| format!("{field}: expected a number, got {found}");
    match row.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() || text == "-1" => Ok(None),
        Some(Value::String(text)) => text.parse().map(Some).map_err(|_| wrong(text)),
        Some(value) if value.as_i64() == Some(-1) => Ok(None),
        Some(value) => {
            let class = value.as_u64().and_then(|class| usize::try_from(class).ok());
            class.map(Some).ok_or_else(|| wrong(value))
        }
    }
}

/// The right choice among wrong ones, at a place that follows from a hash of the question: rows
/// that publish it apart, or always first, would give it away.
pub(super) fn among(right: String, wrong: Vec<String>, question: &str) -> (Vec<String>, usize) {
    let mut choices = wrong;
    let place = hash_name(0, question) % (choices.len() as u64 + 1);
    let place = place as usize;
    choices.insert(place, right);
    (choices, place)
}

/// The row's name; empty where it has none.
pub(super) fn id(row: &Value) -> String {
    optional_text(row, "id").unwrap_or_default()
}

/// The index of a letter from A on, alone or before other text (`A. text`).
pub(super) fn letter_index(field: &str, text: &str) -> Result<usize, String> {
    let mut characters = text.trim().chars();
    match (characters.next(), characters.next()) {
        (Some(letter @ 'A'..='Z'), next) if next.is_none_or(|c| !c.is_alphanumeric()) => {
            Ok(letter as usize - 'A' as usize)
        }
        _ => Err(format!(
            "{field}: expected a letter from A on, got {text:?}"
        )),
    }
}

/// A lettered question in any of the shapes in which they are published: uniform (`choices` a
/// list, `label` an index), the Hub's (`choices.text`, `choices.label`, `answerKey`), and the
/// original (`question.stem`, `question.choices[..]`, `answerKey`).
pub(super) fn lettered(row: &Value) -> Result<Option<MultipleChoice>, String> {
    if let Some(index) = row.get("label") {
        return uniform(row, id(row), index).map(Some);
    }
    let nested = row.get("question").filter(|q| q.is_object());
    let (question, (labels, choices)) = match nested {
        Some(nested) => (text(nested, "stem")?, listed_choices(nested)?),
        None => (
            text(row, "question").or_else(|_| text(row, "question_stem"))?,
            hub_choices(row)?,
        ),
    };
    let key = text(row, "answerKey")?;
    if key.is_empty() {
        return Ok(None);
    }
    let answer = labels
        .iter()
        .position(|l| l == key)
        .ok_or_else(|| format!("answerKey: expected one of {labels:?}, got {key:?}"))?;
    Ok(Some(MultipleChoice {
        id: id(row),
        ..MultipleChoice::new(question, choices, answer)
    }))
}

/// A question in the uniform shape: `choices` a list of texts, the answer an index.
pub(super) fn uniform(row: &Value, id: String, index: &Value) -> Result<MultipleChoice, String> {
    let choices = row
        .get("choices")
        .and_then(Value::as_array)
        .ok_or("choices: expected a list of texts")?
        .iter()
        .map(|c| c.as_str().map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .ok_or("choices: expected a list of texts")?;
    let answer = index
        .as_u64()
        .and_then(|i| usize::try_from(i).ok())
        .ok_or_else(|| format!("label: expected the index of the right choice, got {index}"))?;
    Ok(MultipleChoice {
        id,
        passage: optional_text(row, "passage"),
        ..MultipleChoice::new(text(row, "question")?, choices, answer)
    })
}

/// Labels and texts of a question's choices.
pub(super) type LabelledChoices = (Vec<String>, Vec<String>);

fn listed_choices(nested: &Value) -> Result<LabelledChoices, String> {
    let list = nested
        .get("choices")
        .and_then(Value::as_array)
        .ok_or("question.choices: expected a list")?;
    list.iter()
        .map(|c| Ok((text(c, "label")?.to_owned(), text(c, "text")?.to_owned())))
        .collect::<Result<Vec<_>, String>>()
        .map(|pairs| pairs.into_iter().unzip())
}

/// The Hub's shape of `choices`.
pub(super) fn hub_choices(row: &Value) -> Result<LabelledChoices, String> {
    labelled_lists("choices", row.get("choices").unwrap_or(&Value::Null))
}

/// The Hub's shape: an object of two lists, `label` and `text`.
pub(super) fn labelled_lists(name: &str, choices: &Value) -> Result<LabelledChoices, String> {
    let list = |field: &str| {
        choices
            .get(field)
            .and_then(Value::as_array)
            .and_then(|l| l.iter().map(|v| v.as_str().map(str::to_owned)).collect())
            .ok_or_else(|| format!("{name}.{field}: expected a list of texts"))
    };
    let (labels, texts): LabelledChoices = (list("label")?, list("text")?);
    match labels.len() == texts.len() {
        true => Ok((labels, texts)),
        false => Err(format!(
            "{name}: {} labels for {} texts",
            labels.len(),
            texts.len()
        )),
    }
}

/// An answer, then its other wordings, each once.
pub(super) fn accepted(answer: &str, aliases: Option<&Value>) -> Result<Vec<String>, String> {
    let mut accepted = vec![answer.trim().to_owned()];
    let listed = match aliases {
        None | Some(Value::Null) => &[][..],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(format!("aliases: expected a list of texts, got {other}")),
    };
    for alias in listed {
        let alias = alias
            .as_str()
            .ok_or_else(|| format!("aliases: expected texts, got {alias}"))?
            .trim();
        if !alias.is_empty() && accepted.iter().all(|known| known != alias) {
            accepted.push(alias.to_owned());
        }
    }
    Ok(accepted)
}
