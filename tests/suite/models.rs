//! The models that are read: `docs/models.md` says what the code says, and `uq4ct models` too.

use data::source::models::{NamedModel, named};
use model::config::FAMILIES;

use crate::support::programs::{json_lines, stdout};

const WIDTH: usize = 120;

/// An item of a list, broken at the page's width.
fn item(text: &str) -> String {
    let mut lines = vec!["-".to_owned()];
    for word in text.split(' ') {
        let last = lines.last_mut().unwrap();
        if last.len() + 1 + word.len() > WIDTH {
            lines.push(format!("  {word}"));
        } else {
            *last += &format!(" {word}");
        }
    }
    lines.join("\n") + "\n"
}

fn families() -> String {
    let one = |family: &model::config::Family| {
        let gguf = match family.gguf {
            Some(name) => format!("safetensors, and GGUF as `{name}`"),
            None => "safetensors".into(),
        };
        let departs = match family.departs {
            "-" => String::new(),
            departs => format!(" Beside LLaMA: {departs}."),
        };
        item(&format!(
            "`{}` ({}): {gguf}.{departs}",
            family.model_type, family.models
        ))
    };
    FAMILIES.iter().map(one).collect()
}

fn names() -> String {
    let mut text = String::from(
        "| short name | model on the Hub | parameters | licence |\n|---|---|---:|---|\n",
    );
    for model in named() {
        let NamedModel {
            name,
            repository,
            licence,
            ..
        } = model;
        let gated = if model.gated { ", gated" } else { "" };
        let size = match model.millions >= 1000 {
            true => format!("{:.1} B", f64::from(model.millions) / 1000.0),
            false => format!("{} M", model.millions),
        };
        text += &format!("| `{name}` | {repository} | {size} | {licence}{gated} |\n");
    }
    text
}

#[test]
fn the_page_lists_the_families_and_names_that_the_code_reads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/models.md");
    let mut page = std::fs::read_to_string(path).unwrap();
    for (mark, text) in [("families", families()), ("names", names())] {
        let (begin, end) = (
            format!("<!-- {mark} -->\n"),
            format!("<!-- end of {mark} -->"),
        );
        let start = page.find(&begin).unwrap_or_else(|| panic!("{begin}")) + begin.len();
        let stop = page.find(&end).unwrap_or_else(|| panic!("{end}"));
        let wanted = format!("\n{text}\n");
        if page[start..stop] == wanted {
            continue;
        }
        assert!(
            std::env::var_os("UPDATE_REFERENCE").is_some(),
            "docs/models.md: the {mark} are out of date; UPDATE_REFERENCE=1 makes them anew:\n{wanted}"
        );
        page.replace_range(start..stop, &wanted);
        std::fs::write(path, &page).unwrap();
    }
}

#[test]
fn the_verb_lists_every_name_once_with_its_licence() {
    let root = tempfile::tempdir().unwrap();
    let rows = json_lines(&stdout(root.path(), &["models", "--json"]));
    assert_eq!(rows.len(), named().len());
    let names: std::collections::BTreeSet<_> = rows.iter().map(|r| r["name"].to_string()).collect();
    assert_eq!(names.len(), rows.len());
    for row in &rows {
        assert_eq!(row["cached"], false, "{row}");
        assert!(row["millions"].as_u64().unwrap() > 100, "{row}");
    }
    let table = stdout(root.path(), &["models"]);
    let llama = table
        .lines()
        .find(|line| line.starts_with("llama-3.2-1b "))
        .unwrap();
    assert!(
        llama.contains("1.2 B") && llama.contains("gated"),
        "{llama}"
    );
}
