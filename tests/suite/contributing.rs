//! CONTRIBUTING's worked examples are files that are compiled: a dataset within `data`, a method
//! within `train`.

use std::path::Path;

fn text(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(name)).unwrap()
}

#[test]
fn the_examples_are_the_files_that_are_compiled() {
    let page = text("CONTRIBUTING.md");
    let blocks = page.split("```rust\n").skip(1);
    let printed: Vec<&str> = blocks
        .map(|rest| rest.split("```").next().unwrap())
        .collect();
    let compiled = ["qasc", "half"].map(|name| text(&format!("tests/contributing/{name}.rs")));
    assert_eq!(printed, compiled);
}
