//! How an input is changed: bytes anywhere, values inside of JSON, entries of archives, the header
//! of safetensors with its length kept true.

use std::io::{Cursor, Read, Write};

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use zip::write::SimpleFileOptions;
use zip::{ZipArchive, ZipWriter};

use super::Files;

/// Changes one file of an input; `others` lend parts of theirs.
pub(super) fn change(rng: &mut ChaCha8Rng, input: &mut Files, fixed: &[&str], others: &[Files]) {
    let names: Vec<String> = input
        .keys()
        .filter(|name| !fixed.contains(&name.as_str()))
        .cloned()
        .collect();
    if names.is_empty() {
        return;
    }
    let name = &names[rng.random_range(0..names.len())];
    if rng.random_bool(0.01) && input.len() > 1 {
        input.remove(name);
        return;
    }
    let other = others[rng.random_range(0..others.len())].get(name);
    let bytes = input.get_mut(name).unwrap();
    let inside = rng.random_bool(0.6);
    let changed = match inside {
        true => structured(rng, bytes),
        false => None,
    };
    match changed {
        Some(changed) => *bytes = changed,
        None => raw(rng, bytes, other.map(Vec::as_slice).unwrap_or_default()),
    }
    bytes.truncate(1 << 20);
}

/// A change that keeps the file's outer form, where it has one that is known here.
fn structured(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.starts_with(b"PK") {
        return archive(rng, bytes);
    }
    if let Some(header) = safetensors_header(bytes) {
        let mut json: Value = serde_json::from_slice(&bytes[8..8 + header]).ok()?;
        value(rng, &mut json);
        let text = json.to_string();
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(text.as_bytes());
        out.extend(&bytes[8 + header..]);
        return Some(out);
    }
    if let Ok(mut json) = serde_json::from_slice::<Value>(bytes) {
        value(rng, &mut json);
        return Some(json.to_string().into_bytes());
    }
    // JSON lines: one of them.
    let mut lines: Vec<Vec<u8>> = bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let at = rng.random_range(0..lines.len());
    let mut json: Value = serde_json::from_slice(&lines[at]).ok()?;
    value(rng, &mut json);
    lines[at] = json.to_string().into_bytes();
    Some(lines.join(&b'\n'))
}

fn safetensors_header(bytes: &[u8]) -> Option<usize> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    (bytes.get(8) == Some(&b'{') && bytes.len() >= length.checked_add(8)?).then_some(length)
}

/// One entry of a zip archive, with its checksum made anew.
fn archive(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut old = ZipArchive::new(Cursor::new(bytes)).ok()?;
    let chosen = rng.random_range(0..old.len().max(1));
    let mut new = ZipWriter::new(Cursor::new(Vec::new()));
    for place in 0..old.len() {
        let mut entry = old.by_index(place).ok()?;
        let name = entry.name().ok()?.into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).ok()?;
        if place == chosen || name.ends_with(".pkl") {
            raw(rng, &mut content, &[]);
        }
        let stored = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored)
            .with_alignment(64);
        new.start_file(name, stored).ok()?;
        new.write_all(&content).ok()?;
    }
    Some(new.finish().ok()?.into_inner())
}

/// Changes one value inside of JSON.
fn value(rng: &mut ChaCha8Rng, json: &mut Value) {
    let here = rng.random_bool(0.15);
    match json {
        Value::Array(items) if !items.is_empty() && !here => {
            let at = rng.random_range(0..items.len());
            match rng.random_range(0..8) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                2 => {
                    let to = rng.random_range(0..items.len());
                    items.swap(at, to);
                }
                _ => value(rng, &mut items[at]),
            }
        }
        Value::Object(fields) if !fields.is_empty() && !here => {
            let at = rng.random_range(0..fields.len());
            let key = fields.keys().nth(at).unwrap().clone();
            match rng.random_range(0..8) {
                0 => drop(fields.remove(&key)),
                1 => {
                    let moved = fields.remove(&key).unwrap();
                    fields.insert(text(rng), moved);
                }
                2 => {
                    fields.insert(text(rng), other(rng));
                }
                _ => value(rng, &mut fields[&key]),
            }
        }
        _ => *json = other(rng),
    }
}

/// A value that is unlikely to be the right one.
fn other(rng: &mut ChaCha8Rng) -> Value {
    match rng.random_range(0..18) {
        0 => Value::Null,
        1 => true.into(),
        2 => false.into(),
        3 => json!(-1),
        4 => json!(0),
        5 => json!(1),
        6 => json!(0.5),
        7 => json!(1e308),
        8 => json!(u64::MAX),
        9 => json!(i64::MIN),
        10 => json!(1_u64 << rng.random_range(8..40)),
        11 => json!([]),
        12 => json!({}),
        13 => json!([text(rng), text(rng)]),
        14 => json!({ text(rng): text(rng) }),
        15 => (0..60).fold(json!(1), |inside, _| json!([inside])),
        16 => json!(rng.random_range(0..300)),
        _ => text(rng).into(),
    }
}

fn text(rng: &mut ChaCha8Rng) -> String {
    let texts = [
        "",
        " ",
        "a",
        "A",
        "##",
        "Ġ",
        "\u{2581}",
        "\u{0}",
        "\u{feff}",
        "\u{1F600}\u{200d}",
        "(?:",
        "[^",
        "\\p{L}+",
        "(a*)*b",
        "type",
        "BPE",
        "WordPiece",
        "Unigram",
        "ByteLevel",
        "Sequence",
        "Metaspace",
        "<unk>",
        "<0x41>",
        "../../x",
        "NaN",
        "lora_A",
        "layers.7.mlp",
        "F32",
        "F64",
        "I8",
        "BF16",
        "model.norm.weight",
        "question",
        "choices",
        "answer",
        "label",
    ];
    match rng.random_bool(0.05) {
        true => "x".repeat(1 << rng.random_range(4..14)),
        false => texts[rng.random_range(0..texts.len())].to_owned(),
    }
}

/// Changes bytes anywhere.
fn raw(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    if bytes.is_empty() {
        bytes.extend(text(rng).bytes());
        return;
    }
    // Where lengths and names stand: the first kilobyte as often as all the rest.
    let end = match rng.random_bool(0.5) {
        true => bytes.len().min(1024),
        false => bytes.len(),
    };
    let at = rng.random_range(0..end);
    let span = 1 + rng
        .random_range(0..bytes.len() - at)
        .min(1 << rng.random_range(0..12));
    match rng.random_range(0..12) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random(),
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
        3 | 4 => {
            let width = [2, 4, 8][rng.random_range(0..3)];
            let number = [
                0,
                1,
                u64::MAX,
                1 << 31,
                (1 << 31) - 1,
                1 << 62,
                1 << 20,
                255,
            ];
            let number = number[rng.random_range(0..number.len())];
            let number = number.to_le_bytes();
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        5 => drop(bytes.drain(at..at + span)),
        6 => {
            let part = bytes[at..at + span].to_vec();
            let to = rng.random_range(0..=bytes.len());
            bytes.splice(to..to, part);
        }
        7 => bytes.truncate(at),
        8 => {
            let word = text(rng).into_bytes();
            bytes.splice(at..at, word);
        }
        9 if !other.is_empty() => {
            let from = rng.random_range(0..other.len());
            let part = &other[from..(from + span).min(other.len())];
            let end = (at + part.len()).min(bytes.len());
            bytes.splice(at..end, part.iter().copied());
        }
        10 => {
            let marks = b"{}[]\",:\n\r\t;'\\-0eE.N";
            bytes[at] = marks[rng.random_range(0..marks.len())];
        }
        _ => {
            let to = rng.random_range(0..bytes.len());
            bytes.swap(at, to);
        }
    }
}
