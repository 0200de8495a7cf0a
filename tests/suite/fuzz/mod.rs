//! Readers against changed files: no panic, no hang, no more memory than a small multiple of the
//! file. `tests/fuzz SECONDS SEED READER` runs one reader, or all of them, for longer.
//!
//! | module | content |
//! |---|---|
//! | this file | the driver: it changes inputs, watches a reader, and shrinks what fails |
//! | [`mutation`] | how an input is changed: bytes, JSON, archives |
//! | [`models`], [`adapters`], [`runs`], [`questions`], [`server`] | the readers |
//!
//! Inputs whose outcome is new (accepted, or refused for a reason not seen before) are changed
//! further: reasons stand in for the coverage that an instrumented build would report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::allocation::most_bytes;

mod adapters;
mod models;
mod mutation;
mod questions;
mod runs;
mod server;

/// The files of an input by name, relative to a directory.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Inputs kept to be changed further.
const CORPUS: usize = 400;
/// Memory that a reader may take whatever the size of its file: buffers, tables, a small model.
const SPARE: usize = 48 << 20;
/// Memory that a reader may take for each byte of its files: a row of JSON is some 30 times its
/// text.
const MULTIPLE: usize = 64;
/// The longest that a reader may take for files of some kilobytes.
const PATIENCE: Duration = Duration::from_secs(10);

/// What went wrong with an input.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Panic(String),
    Memory,
    Slow,
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Changes `seeds` and gives them to `read` in a directory: for as long as `UQ4CT_FUZZ_SECONDS`
/// says, else for a second, from the seed `UQ4CT_FUZZ_SEED`, else 1. `read` says of each input
/// whether it was accepted, or why not. Files named in `fixed` are left as they are.
pub(crate) fn fuzz(
    reader: &str,
    seeds: &[Files],
    fixed: &[&str],
    mut read: impl FnMut(&Path) -> Result<(), String>,
) {
    quiet();
    let seconds = setting("UQ4CT_FUZZ_SECONDS").unwrap_or(1);
    let mut rng = ChaCha8Rng::seed_from_u64(setting("UQ4CT_FUZZ_SEED").unwrap_or(1));
    let folder = tempfile::tempdir().unwrap();
    let mut bench = Bench {
        folder: folder.path(),
        written: Files::new(),
        most: 0.0,
    };
    for (number, seed) in seeds.iter().enumerate() {
        let (outcome, fault) = bench.ask(seed, &mut read);
        assert!(
            fault.is_none() && outcome.is_ok(),
            "{reader}: seed {number} is refused: {outcome:?} {fault:?}"
        );
    }
    let mut corpus = seeds.to_vec();
    let (mut seen, mut faults) = (BTreeSet::new(), BTreeMap::new());
    let (mut inputs, mut accepted) = (0, 0);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds) && faults.len() < 20 {
        let parent = rng.random_range(0..corpus.len());
        let mut input = corpus[parent].clone();
        // Few, so that what one change does is not hidden by another.
        for _ in 0..[1, 1, 1, 2, 4][rng.random_range(0..5)] {
            mutation::change(&mut rng, &mut input, fixed, &corpus);
        }
        inputs += 1;
        let (outcome, fault) = bench.ask(&input, &mut read);
        accepted += usize::from(outcome.is_ok());
        if let Some(fault) = fault {
            if !faults.contains_key(&fault) {
                let small = bench.shrunk(&input, &fault, &mut read);
                let place = keep(reader, faults.len(), &small);
                println!("{reader}: {fault:?}, smallest input in {place}");
                faults.insert(fault, place);
            }
        } else if seen.insert(kind(&outcome)) && corpus.len() < CORPUS {
            corpus.push(input);
        }
    }
    println!(
        "{reader}: {inputs} inputs in {seconds} s, {accepted} accepted, {} outcomes, at most {:.1} \
         bytes of memory for each of a file",
        seen.len(),
        bench.most
    );
    assert!(faults.is_empty(), "{reader}: {faults:#?}");
}

/// The directory in which a reader finds its input.
struct Bench<'a> {
    folder: &'a Path,
    /// What lies there.
    written: Files,
    /// Bytes of memory for each byte of a file, at most.
    most: f64,
}

impl Bench<'_> {
    fn put(&mut self, input: &Files) {
        for gone in self
            .written
            .keys()
            .filter(|name| !input.contains_key(*name))
        {
            std::fs::remove_file(self.folder.join(gone)).unwrap();
        }
        for (name, bytes) in input {
            if self.written.get(name) != Some(bytes) {
                let path = self.folder.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, bytes).unwrap();
            }
        }
        self.written = input.clone();
    }

    fn ask(
        &mut self,
        input: &Files,
        read: &mut impl FnMut(&Path) -> Result<(), String>,
    ) -> (Result<(), String>, Option<Fault>) {
        self.put(input);
        let began = Instant::now();
        let (outcome, memory) = most_bytes(|| fault::caught(|| read(self.folder)));
        let size: usize = input.values().map(Vec::len).sum();
        self.most = self
            .most
            .max(memory.saturating_sub(SPARE / 8) as f64 / size.max(1) as f64);
        let fault = match &outcome {
            Err(panic) => Some(Fault::Panic(kind(&Err(panic.clone())))),
            Ok(_) if memory > SPARE + MULTIPLE * size => Some(Fault::Memory),
            Ok(_) if began.elapsed() > PATIENCE => Some(Fault::Slow),
            Ok(_) => None,
        };
        (outcome.unwrap_or_else(Err), fault)
    }

    /// A smaller input with the same fault.
    fn shrunk(
        &mut self,
        input: &Files,
        fault: &Fault,
        read: &mut impl FnMut(&Path) -> Result<(), String>,
    ) -> Files {
        let mut small = input.clone();
        let until = Instant::now() + Duration::from_secs(20);
        for name in input.keys() {
            let mut chunk = small[name].len() / 2;
            while chunk > 0 {
                let mut at = 0;
                while at < small[name].len() && Instant::now() < until {
                    let mut less = small.clone();
                    let bytes = less.get_mut(name).unwrap();
                    bytes.drain(at..(at + chunk).min(bytes.len()));
                    match self.ask(&less, read).1.as_ref() == Some(fault) {
                        true => small = less,
                        false => at += chunk,
                    }
                }
                chunk /= 2;
            }
        }
        small
    }
}

/// Writes an input where it outlives the test.
fn keep(reader: &str, number: usize, input: &Files) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz/{reader}-{number}"));
    let _ = std::fs::remove_dir_all(&folder);
    for (name, bytes) in input {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    folder.display().to_string()
}

/// An outcome without what differs from input to input: digits, and what stands in quotes.
fn kind(outcome: &Result<(), String>) -> String {
    let Err(reason) = outcome else {
        return String::new();
    };
    let mut quoted = false;
    let plain = reason.chars().filter(|c| {
        quoted ^= matches!(c, '"' | '`');
        !quoted && !c.is_ascii_digit()
    });
    plain.take(160).collect()
}

/// Panics that are caught here are told once, at the end.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !fault::is_caught() {
                before(panic);
            } else if std::env::var_os("UQ4CT_FUZZ_VERBOSE").is_some() {
                println!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
            }
        }));
    });
}

/// The files below a directory whose names are wanted.
fn files(folder: &Path, names: &[&str]) -> Files {
    names
        .iter()
        .map(|name| {
            let path = folder.join(name);
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            ((*name).to_owned(), bytes)
        })
        .collect()
}

/// One file.
fn one(name: &str, bytes: impl Into<Vec<u8>>) -> Files {
    Files::from([(name.to_owned(), bytes.into())])
}
