//! `digests.sha256`: what the files of a directory held when they were written.
//!
//! A line a file, as `sha256sum` writes and checks them: `sha256sum -c digests.sha256`. A file that
//! has no line is not checked: runs of earlier versions have none, and whoever changed a file on
//! purpose takes its line out. A listed file that is not there was left out of a copy; whoever
//! needs it says so.
//!
//! A file is replaced in steps of which each leaves something whole: the new digest is listed
//! beside the old one, the file takes its place, the old digest goes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use data::source::sha256;
use sha2::{Digest, Sha256};

use super::files::{Part, write};
use crate::error::TrainError;

/// Name of the list.
pub const DIGESTS: &str = "digests.sha256";
/// Name of the file by which an export is known.
pub const CARD: &str = "uq.json";

/// The list of a directory's files with their SHA-256.
#[derive(Debug, Clone)]
pub struct Digests {
    /// The directory below which the files lie.
    directory: PathBuf,
    /// The list itself.
    list: PathBuf,
}

/// A line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    /// SHA-256 in hex.
    digest: String,
    /// Path of the file below the directory.
    name: String,
}

impl Digests {
    /// The list of a directory, which need not be there.
    pub fn of(directory: &Path) -> Self {
        Self::named(directory, DIGESTS)
    }

    /// A list of another name.
    pub(crate) fn named(directory: &Path, name: &str) -> Self {
        Self {
            directory: directory.to_path_buf(),
            list: directory.join(name),
        }
    }

    /// Whether there is a list.
    pub fn exists(&self) -> bool {
        self.list.is_file()
    }

    fn lines(&self) -> Result<Vec<Line>, TrainError> {
        let bytes = match fs::read(&self.list) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(|e| TrainError::file(&self.list, e))?,
        };
        let text = String::from_utf8(bytes)
            .map_err(|_| self.damaged("is no text: it was damaged".into()))?;
        if text.is_empty() {
            return Err(self.damaged("is empty: it was cut".into()));
        }
        let lines = text.lines().enumerate();
        let lines = lines.map(|(number, line)| {
            parse(line).ok_or_else(|| {
                let reason = format!("line {}: expected a SHA-256 and a file", number + 1);
                self.damaged(reason)
            })
        });
        match text.ends_with('\n') {
            true => lines.collect(),
            false => Err(self.damaged("its last line was cut".into())),
        }
    }

    fn damaged(&self, what: String) -> TrainError {
        let remedy = "copy it from the original; without it, files are not checked";
        TrainError::file(&self.list, format!("{what}: {remedy}"))
    }

    fn write(&self, lines: &[Line]) -> Result<(), TrainError> {
        let text: String = lines
            .iter()
            .map(|Line { digest, name }| format!("{digest}  {name}\n"))
            .collect();
        match text.is_empty() {
            false => write(&self.list, text.as_bytes()),
            true => match fs::remove_file(&self.list) {
                Err(e) if e.kind() != ErrorKind::NotFound => Err(TrainError::file(&self.list, e)),
                _ => Ok(()),
            },
        }
    }

    /// Checks a file that must be listed.
    ///
    /// # Errors
    /// A list without the file, and as [`Self::check`].
    pub(crate) fn require(&self, name: &str) -> Result<(), TrainError> {
        if self.known(name)?.is_empty() {
            let reason = format!("does not list {name}: it was cut");
            return Err(TrainError::file(&self.list, reason));
        }
        self.check(name)
    }

    /// Checks a file that is listed; any other passes.
    ///
    /// # Errors
    /// A file that differs from its digest, a listed one that is not there, or a damaged list.
    pub fn check(&self, name: &str) -> Result<(), TrainError> {
        self.settled(|| {
            let known = self.known(name)?;
            match known.is_empty() {
                true => Ok(()),
                false => self.compare(name, &known, &sha256(&self.directory.join(name))?),
            }
        })
    }

    /// Checks the digest that was found of a file; a file that is not listed passes.
    ///
    /// # Errors
    /// Another digest than the list's, or a damaged list.
    pub(crate) fn agrees(&self, name: &str, found: &str) -> Result<(), TrainError> {
        let known = self.known(name)?;
        match known.is_empty() {
            true => Ok(()),
            false => self.compare(name, &known, found),
        }
    }

    /// Reads a file; checks it as [`Self::check`] does.
    ///
    /// # Errors
    /// A file that cannot be read, and as [`Self::check`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>, TrainError> {
        self.settled(|| {
            let path = self.directory.join(name);
            let bytes = fs::read(&path).map_err(|e| TrainError::file(&path, e))?;
            let known = self.known(name)?;
            if !known.is_empty() {
                self.compare(name, &known, &digest(&bytes))?;
            }
            Ok(bytes)
        })
    }

    /// Looks again where something does not fit: another process may just have replaced the file.
    fn settled<T>(&self, look: impl Fn() -> Result<T, TrainError>) -> Result<T, TrainError> {
        let mut found = look();
        for _ in 0..3 {
            if found.is_ok() || !self.exists() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            found = look();
        }
        found
    }

    /// The digests that are listed of a file: two while it is replaced.
    fn known(&self, name: &str) -> Result<Vec<Line>, TrainError> {
        let lines = self.lines()?.into_iter();
        Ok(lines.filter(|line| line.name == name).collect())
    }

    fn compare(&self, name: &str, known: &[Line], found: &str) -> Result<(), TrainError> {
        if known.iter().any(|line| line.digest == found) {
            return Ok(());
        }
        let list = self.list.file_name().unwrap_or_default().to_string_lossy();
        let reason = format!(
            "is not what was written: its SHA-256 begins with {}, {list} says {}. {} If the change is meant, take the file's line out of {list}",
            &found[..8],
            &known[0].digest[..8],
            remedy(name)
        );
        Err(TrainError::file(self.directory.join(name), reason))
    }

    /// Writes a file and lists it.
    ///
    /// # Errors
    /// Files that cannot be written, or a damaged list.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
        let part = Part::beside(&self.directory.join(name))?;
        part.write(bytes)?;
        self.place(name, part, digest(bytes))
    }

    /// Lets `save` write a file, and lists it.
    ///
    /// # Errors
    /// As [`Self::put`], and what `save` says.
    pub fn put_with(
        &self,
        name: &str,
        save: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let part = Part::beside(&self.directory.join(name))?;
        save(part.path())?;
        let digest = sha256(part.path())?;
        self.place(name, part, digest)
    }

    fn place(&self, name: &str, part: Part, digest: String) -> Result<(), TrainError> {
        let line = Line {
            digest,
            name: name.into(),
        };
        let before = self.lines()?;
        let (known, mut others): (Vec<Line>, Vec<Line>) =
            before.iter().cloned().partition(|line| line.name == name);
        others.push(line.clone());
        if known.contains(&line) {
            part.place()?;
        } else {
            self.write(&[&others[..], &known].concat())?;
            part.place()?;
        }
        match known.iter().all(|known| *known == line) {
            true => Ok(()),
            false => self.write(&others),
        }
    }

    /// Lists files as they are; those that are not there lose their lines.
    ///
    /// # Errors
    /// Files that cannot be read or written, or a damaged list.
    pub fn list(&self, names: &[&str]) -> Result<(), TrainError> {
        let mut lines = self.lines()?;
        lines.retain(|line| !names.contains(&line.name.as_str()));
        for name in names {
            let path = self.directory.join(name);
            if path.is_file() {
                lines.push(Line {
                    digest: sha256(&path)?,
                    name: (*name).into(),
                });
            }
        }
        self.write(&lines)
    }

    /// Takes a file off the list: it is about to grow.
    ///
    /// # Errors
    /// A list that cannot be written, or a damaged one.
    pub fn forget(&self, name: &str) -> Result<(), TrainError> {
        let before = self.lines()?;
        let mut lines = before.clone();
        lines.retain(|line| line.name != name);
        match lines == before {
            true => Ok(()),
            false => self.write(&lines),
        }
    }

    /// Removes the list.
    ///
    /// # Errors
    /// A list that cannot be removed.
    pub(crate) fn remove(&self) -> Result<(), TrainError> {
        self.write(&[])
    }
}

/// SHA-256 of bytes, in hex.
pub fn digest(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(line: &str) -> Option<Line> {
    let (digest, name) = line.split_once("  ")?;
    let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    let whole = digest.len() == 64 && digest.bytes().all(hex) && !name.is_empty();
    whole.then(|| Line {
        digest: digest.into(),
        name: name.into(),
    })
}

/// What to do about a file that differs.
fn remedy(name: &str) -> &'static str {
    match name {
        "config.toml" => "Undo the change, or copy the file from the original run.",
        "metrics.jsonl" | "prequential.jsonl" => {
            "Copy it from the original run, or train anew with --overwrite."
        }
        _ => {
            "Copy it from the original, or remove it and repeat the command that wrote it (a training with --resume)."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Digests) {
        let root = tempfile::tempdir().unwrap();
        let digests = Digests::of(root.path());
        (root, digests)
    }

    #[test]
    fn a_file_that_differs_is_refused_by_name_and_one_without_a_line_passes() {
        let (root, digests) = folder();
        let at = |name: &str| root.path().join(name);
        fs::write(at("own.txt"), "anything").unwrap();
        digests.check("own.txt").unwrap();
        digests.put("a/b.txt", b"one").unwrap();
        digests.put("c.txt", b"two").unwrap();
        assert_eq!(digests.read("a/b.txt").unwrap(), b"one");
        digests.check("own.txt").unwrap();
        for damaged in ["", "on", "ond"] {
            fs::write(at("a/b.txt"), damaged).unwrap();
            for error in [
                digests.check("a/b.txt").unwrap_err(),
                digests.read("a/b.txt").unwrap_err(),
            ] {
                let error = error.to_string();
                for part in ["a/b.txt", "is not what was written", DIGESTS, "--resume"] {
                    assert!(error.contains(part), "{error}");
                }
            }
        }
        digests.check("c.txt").unwrap();
        // The honest way out.
        digests.forget("a/b.txt").unwrap();
        digests.check("a/b.txt").unwrap();
        digests.check("c.txt").unwrap();
        fs::remove_file(at("c.txt")).unwrap();
        assert!(digests.check("c.txt").is_err());
    }

    #[test]
    fn a_damaged_list_is_refused_by_line() {
        let (_root, digests) = folder();
        digests.put("a.txt", b"one").unwrap();
        digests.put("b.txt", b"two").unwrap();
        let whole = fs::read_to_string(&digests.list).unwrap();
        let cut = &whole[..whole.len() - 3];
        let flipped = whole.replacen(&whole[..1], "G", 1);
        for (text, reason) in [
            ("", "is empty"),
            (cut, "last line was cut"),
            (&flipped, "line 1: expected a SHA-256"),
        ] {
            fs::write(&digests.list, text).unwrap();
            let error = digests.check("b.txt").unwrap_err().to_string();
            assert!(error.contains(DIGESTS) && error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_replaced_file_is_whole_at_every_step() {
        let (root, digests) = folder();
        digests.put("a.txt", b"one").unwrap();
        // As a killed process left it: the new digest is listed, the file is the old one.
        let mut lines = digests.lines().unwrap();
        lines.push(Line {
            digest: digest(b"two"),
            name: "a.txt".into(),
        });
        digests.write(&lines).unwrap();
        digests.check("a.txt").unwrap();
        fs::write(root.path().join("a.txt"), "two").unwrap();
        digests.check("a.txt").unwrap();
        digests.put("a.txt", b"three").unwrap();
        assert_eq!(digests.lines().unwrap().len(), 1);
        fs::write(root.path().join("a.txt"), "two").unwrap();
        assert!(digests.check("a.txt").is_err());
        // Nothing but the two files is left.
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2);
    }

    #[test]
    fn sha256sum_reads_the_list() {
        let (root, digests) = folder();
        digests.put("a b/c.txt", b"one").unwrap();
        digests.list(&["a b/c.txt", "missing"]).unwrap();
        let text = fs::read_to_string(&digests.list).unwrap();
        assert_eq!(
            text,
            "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed  a b/c.txt\n"
        );
        drop(root);
    }
}
