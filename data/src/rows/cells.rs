//! Parquet's cells as JSON.

use std::iter;

use parquet::basic::{LogicalType, TimeUnit};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::Value;

/// Bytes of the text in a value.
pub(super) fn text_bytes(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.values().map(text_bytes).sum(),
        _ => 0,
    }
}

/// A row, or a structure in one, as an object; `kind` is its type.
///
/// # Errors
/// The field, and what cannot be told apart in it.
pub(super) fn object(row: &Row, kind: &Type) -> Result<Value, String> {
    // A row has its type's fields in their order.
    let kinds = children(kind).map(Some).chain(iter::repeat(None));
    let fields = row.get_column_iter().zip(kinds);
    let fields = fields.map(|((name, field), kind)| {
        let kind = kind.filter(|kind| kind.name() == name);
        let found = value(field, kind).map_err(|reason| format!("{name}: {reason}"))?;
        Ok((name.clone(), found))
    });
    fields.collect::<Result<_, _>>().map(Value::Object)
}

/// A cell as JSON. The crate's own conversion makes base64 of plain bytes, which many programs
/// write for text, 0.10000000149011612 of 0.1, and a number of a time in nanoseconds.
fn value(field: &Field, kind: Option<&Type>) -> Result<Value, String> {
    let float = |text: String| serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(match field {
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::from(text),
            // An image or the like. Whoever asks for it as text is told what it is.
            Err(_) => serde_json::json!({"bytes that are no UTF-8": bytes.len()}),
        },
        Field::Float16(number) => float(format!("{:?}", number.to_f32())),
        Field::Float(number) => float(format!("{number:?}")),
        Field::Long(number) => in_micros(*number, kind).to_json_value(),
        Field::Group(row) => match kind {
            Some(kind) => object(row, kind)?,
            None => field.to_json_value(),
        },
        Field::ListInternal(list) => {
            let items = list.elements().iter();
            let items = items.map(|item| value(item, kind.map(items_of)));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let kinds = kind.and_then(|kind| children(kind).next());
            let [of_keys, of_values] =
                [0, 1].map(|part| kinds.and_then(|kinds| children(kinds).nth(part)));
            let mut entries = serde_json::Map::new();
            for (key, found) in map.entries() {
                let key = match value(key, of_keys)? {
                    Value::String(key) => key,
                    other => other.to_string(),
                };
                // The last of two would win without a word.
                if entries.contains_key(&key) {
                    return Err(format!("the key {key:?} of a map stands twice: keep one"));
                }
                entries.insert(key, value(found, of_values)?);
            }
            Value::Object(entries)
        }
        Field::Decimal(_) => match field.to_json_value() {
            // A whole number comes as `10.`.
            Value::String(text) => Value::from(text.strip_suffix('.').unwrap_or(&text)),
            other => other,
        },
        other => other.to_json_value(),
    })
}

/// A whole number; a time where its type says that it counts nanoseconds, as pandas writes them by
/// default. What is shorter than a microsecond is cut.
fn in_micros(number: i64, kind: Option<&Type>) -> Field {
    let logical = kind.and_then(|kind| kind.get_basic_info().logical_type_ref());
    let micros = number.div_euclid(1000);
    match logical {
        Some(LogicalType::Timestamp(time)) if time.unit == TimeUnit::NANOS => {
            Field::TimestampMicros(micros)
        }
        Some(LogicalType::Time(time)) if time.unit == TimeUnit::NANOS => Field::TimeMicros(micros),
        _ => Field::Long(number),
    }
}

fn children(kind: &Type) -> impl Iterator<Item = &Type> {
    let fields = match kind.is_group() {
        true => kind.get_fields(),
        false => &[],
    };
    fields.iter().map(AsRef::as_ref)
}

/// The type of a list's items: below `repeated group list`, or in older files the repeated field
/// itself, by the rules of the format for files written before there were any.
fn items_of(list: &Type) -> &Type {
    let Some(repeated) = children(list).next() else {
        return list;
    };
    let name = repeated.name();
    let mut inner = children(repeated);
    match (inner.next(), inner.next()) {
        (Some(item), None) if name != "array" && !name.ends_with("_tuple") => item,
        _ => repeated,
    }
}

#[cfg(test)]
mod tests {
    use parquet::schema::parser::parse_message_type;

    use super::*;

    #[test]
    fn a_lists_items_are_found_in_files_of_every_age() {
        let list = |inside: &str| {
            let text = format!("message m {{ optional group l (LIST) {{ {inside} }} }}");
            items_of(
                children(&parse_message_type(&text).unwrap())
                    .next()
                    .unwrap(),
            )
            .name()
            .to_owned()
        };
        let one = "optional int64 x;";
        let repeated =
            |name: &str, fields: &str| list(&format!("repeated group {name} {{ {fields} }}"));
        assert_eq!(repeated("list", one), "x");
        assert_eq!(list("repeated int64 item;"), "item");
        assert_eq!(
            repeated("element", "optional int64 x; optional int64 y;"),
            "element"
        );
        // Structures of one field.
        assert_eq!(repeated("array", one), "array");
        assert_eq!(repeated("l_tuple", one), "l_tuple");
    }
}
