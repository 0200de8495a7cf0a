//! Who works on a directory: a file with host and process, for machines that share a file system.
//!
//! The file's time is renewed while the work goes on. A lock is stale if its process is gone (same host), or if its time is older
//! than [`STALE`] (another host): clocks of one cluster agree to within minutes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// Age after which another host's lock counts as left behind.
pub const STALE: Duration = Duration::from_secs(600);

/// How often a lock's time is renewed.
const RENEWAL: Duration = Duration::from_secs(60);

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The machine.
    pub host: String,
    /// The process.
    pub pid: u32,
}

impl Holder {
    fn this() -> Self {
        Self {
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            pid: std::process::id(),
        }
    }
}

/// A held lock; dropping it gives it back.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    end: Arc<AtomicBool>,
    renewal: Option<JoinHandle<()>>,
}

/// What an attempt to take a lock found.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Taken(Lock),
    /// Someone works there.
    Held(Holder),
}

impl Lock {
    /// Takes the lock of a directory, which is created if need be; a stale one is removed first.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn attempt(directory: &Path) -> Result<Attempt, TrainError> {
        fs::create_dir_all(directory).map_err(|e| TrainError::file(directory, e))?;
        let path = directory.join("lock.json");
        for _ in 0..2 {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Self::hold(path, file).map(Attempt::Taken),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(TrainError::file(&path, error)),
            }
            let holder = read(&path);
            match holder {
                Some(holder) if !stale(&path, &holder) => return Ok(Attempt::Held(holder)),
                // Just created and not written yet, or damaged: only its age tells.
                None if !old(&path) => {
                    return Ok(Attempt::Held(Holder {
                        host: "another".into(),
                        pid: 0,
                    }));
                }
                _ => take_away(&path),
            }
        }
        let holder = read(&path).unwrap_or_else(Holder::this);
        Ok(Attempt::Held(holder))
    }

    fn hold(path: PathBuf, mut file: File) -> Result<Self, TrainError> {
        let text =
            serde_json::to_string(&Holder::this()).map_err(|e| TrainError::file(&path, e))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(|e| TrainError::file(&path, e))?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = end.clone();
        let renewal = std::thread::spawn(move || {
            let mut waited = Duration::ZERO;
            let tick = Duration::from_millis(200);
            while !ended.load(Ordering::SeqCst) {
                std::thread::sleep(tick);
                waited += tick;
                if waited >= RENEWAL {
                    waited = Duration::ZERO;
                    let _ = file.set_modified(SystemTime::now());
                }
            }
        });
        Ok(Self {
            path,
            end,
            renewal: Some(renewal),
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        if let Some(renewal) = self.renewal.take() {
            let _ = renewal.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn read(path: &Path) -> Option<Holder> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

fn old(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|m| m.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE))
}

fn stale(path: &Path, holder: &Holder) -> bool {
    match holder.host == Holder::this().host {
        true => !alive(holder.pid),
        false => old(path),
    }
}

/// Whether a process of this host is there. Where that cannot be seen, it is taken to be.
fn alive(pid: u32) -> bool {
    let processes = Path::new("/proc");
    !processes.join("self").exists() || processes.join(pid.to_string()).exists()
}

/// Removes a stale lock. It is renamed first: of two who see it stale, one alone succeeds.
fn take_away(path: &Path) {
    let aside = path.with_extension(format!("stale-{}", std::process::id()));
    if fs::rename(path, &aside).is_ok() {
        let _ = fs::remove_file(aside);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_and_dropping_gives_it_back() {
        let root = tempfile::tempdir().unwrap();
        let first = Lock::attempt(root.path()).unwrap();
        assert!(matches!(first, Attempt::Taken(_)));
        match Lock::attempt(root.path()).unwrap() {
            Attempt::Held(holder) => assert_eq!(holder, Holder::this()),
            Attempt::Taken(_) => panic!("two holders"),
        }
        drop(first);
        assert!(matches!(
            Lock::attempt(root.path()).unwrap(),
            Attempt::Taken(_)
        ));
    }

    #[test]
    fn locks_left_behind_are_taken_over_and_living_ones_of_other_hosts_are_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("lock.json");
        let leave = |host: &str, pid: u32, age: Duration| {
            let holder = Holder {
                host: host.into(),
                pid,
            };
            fs::write(&path, serde_json::to_string(&holder).unwrap()).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let taken = || matches!(Lock::attempt(root.path()).unwrap(), Attempt::Taken(_));
        // No process has this number: it is past every limit.
        leave(&Holder::this().host, u32::MAX - 1, Duration::ZERO);
        assert!(taken());
        leave("elsewhere", 1, Duration::from_secs(30));
        assert!(!taken());
        leave("elsewhere", 1, STALE + Duration::from_secs(1));
        assert!(taken());
        fs::write(&path, "{").unwrap();
        assert!(!taken());
    }
}
