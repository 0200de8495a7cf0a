//! Files written whole or not at all, and what killed processes left of such writing.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::TrainError;
use crate::lock;

/// A file being written beside its place, under a name that no other process takes. Dropped before
/// it is placed, it is removed.
#[derive(Debug)]
pub(super) struct Part {
    path: PathBuf,
    place: PathBuf,
}

impl Part {
    /// A file to be written beside `place`, whose directory is created if need be.
    pub(super) fn beside(place: &Path) -> Result<Self, TrainError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        lock::still_held(place)?;
        let parent = place.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(|e| TrainError::file(parent, e))?;
        // As the writer of Burn's records names its own.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut name = place.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}-{number}.tmp", std::process::id()));
        Ok(Self {
            path: place.with_file_name(name),
            place: place.to_path_buf(),
        })
    }

    /// Where to write.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the whole file.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<(), TrainError> {
        let write = || {
            let mut file = File::create(&self.path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| TrainError::file(&self.path, e))
    }

    /// Puts the file in its place.
    pub(super) fn place(self) -> Result<(), TrainError> {
        fs::rename(&self.path, &self.place).map_err(|e| TrainError::file(&self.place, e))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // Not there any more once it was placed.
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes beside the destination and renames, so that a cut leaves the old file or the new one.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let part = Part::beside(path)?;
    part.write(bytes)?;
    part.place()
}

/// Removes what killed processes were writing in a run's directory. Only for who holds its lock.
pub(super) fn sweep(root: &Path) {
    let below = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let folders = ["", "adapter", "checkpoint", "evaluation"].map(|name| root.join(name));
    let mut found: Vec<PathBuf> = folders.into_iter().flat_map(below).collect();
    found.extend(below(root.join("evaluation")).into_iter().flat_map(below));
    for path in found {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_part(&name) {
            let _ = fs::remove_file(path);
        }
    }
    below(root.join("members"))
        .iter()
        .for_each(|root| sweep(root));
}

/// Endings of what earlier versions were writing.
const FORMER: [&str; 5] = [
    "unfinished.bpk",
    ".part.bpk",
    ".json.part",
    ".jsonl.part",
    ".toml.part",
];

/// Whether a name is that of a file that was being written: `NAME.PROCESS-NUMBER.tmp`.
fn is_part(name: &str) -> bool {
    let numbered = name
        .strip_suffix(".tmp")
        .and_then(|stem| stem.rsplit('.').next());
    let numbered = numbered.and_then(|part| part.split_once('-'));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    numbered.is_some_and(|(process, number)| digits(process) && digits(number))
        || FORMER.iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_being_written_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let dead = [
            "config.toml.12-0.tmp",
            "checkpoint/optim-3.bpk.12-4.tmp",
            "adapter/adapter.bpk.12-0.tmp.12-1.tmp",
            "adapter/unfinished.bpk",
            "evaluation/boolq/predictions.jsonl.part",
            "members/s42/checkpoint/model-1.bpk.7-0.tmp",
        ];
        let alive = [
            "notes.tmp",
            "a.12-x.tmp",
            "checkpoint/optim-3.bpk",
            "deep/er/still/x.12-4.tmp",
        ];
        for name in dead.iter().chain(&alive) {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        sweep(root.path());
        assert!(dead.iter().all(|name| !root.path().join(name).exists()));
        assert!(alive.iter().all(|name| root.path().join(name).exists()));
    }

    #[test]
    fn two_writers_of_one_file_do_not_meet() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a.json");
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let path = path.clone();
                std::thread::spawn(move || {
                    for _ in 0..50 {
                        write(&path, format!("{writer}").repeat(1000).as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|w| w.join().unwrap());
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() == 1000 && text.bytes().all(|b| b == text.as_bytes()[0]));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
