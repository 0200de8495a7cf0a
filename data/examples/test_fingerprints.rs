//! Writes the hashes of every dataset's test questions: `cargo run -p uq4ct-data --example
//! test_fingerprints DATA_DIR`.

use std::error::Error;
use std::path::{Path, PathBuf};

use data::dataset::DATASETS;
use data::leaks::{TEST_SETS, to_bytes};
use data::source::Finder;
use data::split::{SplitOptions, test_only};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args().nth(1).ok_or("expected a data directory")?;
    let mut finder = Finder::from_env();
    finder.data_dir = Some(PathBuf::from(directory));
    let options = SplitOptions {
        held_out_fraction: 0.1,
        seed: 0,
        train_limit: None,
        held_out_limit: None,
        test_limit: None,
    };
    for (name, _) in TEST_SETS {
        let found = DATASETS.iter().find(|dataset| dataset.name() == *name);
        let dataset = found.ok_or("a test set without a dataset")?;
        let test = test_only(*dataset, &finder, &options)?.test;
        let bytes = to_bytes(&test);
        println!("{name}: {} of {} questions", bytes.len() / 8, test.len());
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("test_fingerprints");
        std::fs::write(root.join(format!("{name}.bin")), bytes)?;
    }
    Ok(())
}
