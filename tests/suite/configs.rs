//! Every file under `configs/` is one that the program takes.

use std::path::{Path, PathBuf};

use train::config::ConfigLayers;

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn every_shipped_config_resolves() {
    let mut found = Vec::new();
    files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("configs"),
        &mut found,
    );
    for file in &found {
        let mut layers = ConfigLayers::default();
        layers.file(file).unwrap();
        layers
            .resolve()
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
    assert_eq!(found.len(), 37);
}
