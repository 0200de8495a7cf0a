//! Who works on a directory or on a file: a file with host and process, for machines that share a
//! file system.
//!
//! The file's time is renewed while the work goes on. A lock is stale if its process is gone (same
//! machine, same system of process numbers), or if its time is older than [`STALE`]: clocks of one
//! cluster agree to within minutes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::TrainError;

/// Name of a directory's lock.
pub const LOCK: &str = "lock.json";

/// Age after which a lock counts as left behind.
pub const STALE: Duration = Duration::from_secs(600);

/// How often a lock's time is renewed.
const RENEWAL: Duration = Duration::from_secs(60);

/// The locks that this process holds: file and token.
static HELD: Mutex<Vec<(PathBuf, u64)>> = Mutex::new(Vec::new());

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Name of the machine.
    pub host: String,
    /// Number of the process.
    pub pid: u32,
    /// Boot and process namespace in which the process number means something. Empty where the
    /// system does not say.
    #[serde(default)]
    pub namespace: String,
    /// When the process began, in the kernel's ticks: its number may be another's by now. 0 where
    /// the system does not say.
    #[serde(default)]
    pub started: u64,
    /// A random number that tells this lock from every other.
    #[serde(default)]
    pub token: u64,
}

impl Holder {
    fn unknown() -> Self {
        Self {
            host: "another".into(),
            pid: 0,
            namespace: String::new(),
            started: 0,
            token: 0,
        }
    }

    fn this() -> Self {
        Self {
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            pid: std::process::id(),
            namespace: namespace(),
            started: started(std::process::id()).unwrap_or(0),
            token: rand::random(),
        }
    }
}

/// A held lock. Dropping it gives the directory or file free.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    /// The directory, if it was created for the lock: removed again where nothing came into it.
    created: Option<PathBuf>,
    token: u64,
    end: Arc<AtomicBool>,
    renewal: Option<JoinHandle<()>>,
}

/// What an attempt to take a lock found.
#[derive(Debug)]
pub enum Attempt {
    /// The lock is ours.
    Taken(Lock),
    /// Someone else works in the directory.
    Held(Holder),
}

impl Lock {
    /// Takes the lock of a directory, which is created if need be; a stale one is removed first.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn attempt(directory: &Path) -> Result<Attempt, TrainError> {
        let created = !directory.is_dir();
        fs::create_dir_all(directory).map_err(|e| TrainError::file(directory, e))?;
        let mut attempt = Self::attempt_at(directory.join(LOCK))?;
        if let (true, Attempt::Taken(lock)) = (created, &mut attempt) {
            lock.created = Some(directory.to_path_buf());
        }
        Ok(attempt)
    }

    /// Takes a directory for this process alone.
    ///
    /// # Errors
    /// Another process that works on it, by number, or a directory that cannot be written.
    pub fn take(directory: &Path) -> Result<Self, TrainError> {
        Self::attempt(directory)?.taken(directory, &directory.join(LOCK))
    }

    /// Takes an output file for this process alone. The lock lies beside it.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_file(output: &Path) -> Result<Self, TrainError> {
        let mut name = output.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let parent = output.parent().filter(|parent| *parent != Path::new(""));
        if let Some(parent) = parent.filter(|parent| !parent.is_dir()) {
            let reason = format!("there is no directory {}: create it", parent.display());
            return Err(TrainError::file(output, reason));
        }
        Self::attempt_at(path.clone())?.taken(output, &path)
    }

    /// Takes a directory for the moment of writing something into it; waits for others who do.
    ///
    /// # Errors
    /// Another process that holds it for an hour, or a directory that cannot be written.
    pub fn wait(directory: &Path) -> Result<Self, TrainError> {
        for _ in 0..36_000 {
            if let Attempt::Taken(lock) = Self::attempt(directory)? {
                return Ok(lock);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Self::take(directory)
    }

    fn attempt_at(path: PathBuf) -> Result<Attempt, TrainError> {
        for _ in 0..2 {
            let own = Holder::this();
            match create(&path, &own) {
                Ok(file) => return Ok(Attempt::Taken(Self::hold(path, file, own.token))),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(TrainError::file(&path, error)),
            }
            let holder = read(&path);
            match holder {
                Some(holder) if !stale(&path, &holder) => return Ok(Attempt::Held(holder)),
                // Damaged, or not written yet where a lock cannot be linked: only its age tells.
                None if !old(&path) => return Ok(Attempt::Held(Holder::unknown())),
                known => take_away(&path, known.map(|holder| holder.token)),
            }
        }
        Ok(Attempt::Held(read(&path).unwrap_or_else(Holder::unknown)))
    }

    fn hold(path: PathBuf, file: File, token: u64) -> Self {
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
        held(|held| held.push((path.clone(), token)));
        Self {
            path,
            created: None,
            token,
            end,
            renewal: Some(renewal),
        }
    }
}

fn held<T>(look: impl FnOnce(&mut Vec<(PathBuf, u64)>) -> T) -> T {
    look(&mut HELD.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Refuses to write below a directory whose lock this process has lost. Someone removed the
/// directory, or took the lock over while this machine slept, and may be writing there by now.
///
/// # Errors
/// The directory.
pub fn still_held(place: &Path) -> Result<(), TrainError> {
    let above = |lock: &Path| {
        let directory = lock.parent().unwrap_or(Path::new(""));
        lock.ends_with(LOCK) && place.starts_with(directory)
    };
    let locks = held(|held| {
        let above = held.iter().filter(|(lock, _)| above(lock));
        above.cloned().collect::<Vec<_>>()
    });
    for (lock, token) in locks {
        // One that cannot be read at this moment tells nothing.
        let lost = || match read(&lock) {
            Some(holder) => holder.token != token,
            None => lock.try_exists().is_ok_and(|exists| !exists),
        };
        // Whoever came too late for a stale one puts a fresh one back in a moment.
        let again = || {
            std::thread::sleep(Duration::from_millis(100));
            lost()
        };
        if lost() && again() {
            return Err(TrainError::file(
                lock.parent().unwrap_or(Path::new("")),
                "was removed or taken over while this process worked on it: nothing more is written there; see that one process alone works on it, then start again",
            ));
        }
    }
    Ok(())
}

/// Creates a lock that has its holder from its first moment, unless there is one: a process that is
/// killed meanwhile must not leave a lock of nobody, which would hold for [`STALE`].
fn create(path: &Path, holder: &Holder) -> io::Result<File> {
    let text = serde_json::to_string(holder)?;
    let whole = path.with_file_name(format!(
        "{}{}-{}{PART}",
        prefix(path),
        holder.pid,
        holder.token
    ));
    // On the disk, not only in memory: a full disk may say so late.
    let fill = |mut file: File| {
        file.write_all(text.as_bytes())?;
        file.sync_all().map(|()| file)
    };
    let written = File::create_new(&whole).and_then(&fill);
    let linked = written.map(|file| fs::hard_link(&whole, path).map(|()| file));
    let _ = fs::remove_file(&whole);
    let file = match linked? {
        // A file system that has no links.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            // A lock that says nothing would be held by nobody.
            let fill = |file| fill(file).inspect_err(|_| drop(fs::remove_file(path)));
            File::create_new(path).and_then(fill)
        }
        done => done,
    }?;
    sweep(path);
    Ok(file)
}

/// Ending of a lock that is being written.
const PART: &str = ".tmp";

/// How the names of a lock's parts begin.
fn prefix(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    format!("{}.", name.to_string_lossy())
}

/// Removes what killed processes were writing of a lock that is now held. Who is writing one now
/// finds the lock held.
fn sweep(path: &Path) {
    let (prefix, parent) = (prefix(path), path.parent().unwrap_or(Path::new(".")));
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&prefix) && name.ends_with(PART) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Attempt {
    fn taken(self, what: &Path, path: &Path) -> Result<Lock, TrainError> {
        match self {
            Self::Taken(lock) => Ok(lock),
            Self::Held(holder) => Err(refusal(what, path, &holder)),
        }
    }
}

fn refusal(what: &Path, path: &Path, Holder { host, pid, .. }: &Holder) -> TrainError {
    let lock = path.file_name().unwrap_or_default().to_string_lossy();
    let reason = format!(
        "process {pid} on {host} works on it: wait for that process, or name another place; if it has died, remove {lock}"
    );
    TrainError::file(what, reason)
}

/// Refuses a directory that another process works on.
///
/// # Errors
/// That process, by number.
pub fn refuse_held(directory: &Path) -> Result<(), TrainError> {
    let path = directory.join(LOCK);
    let ours = held(|held| held.iter().any(|(lock, _)| *lock == path));
    match holder(directory) {
        Some(holder) if !ours => Err(refusal(directory, &path, &holder)),
        _ => Ok(()),
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        if let Some(renewal) = self.renewal.take() {
            let _ = renewal.join();
        }
        held(|held| held.retain(|(_, token)| *token != self.token));
        // Only our own: it may have been taken over while this machine slept.
        if read(&self.path).is_some_and(|holder| holder.token == self.token) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(directory) = &self.created {
            // Only an empty one can be removed.
            let _ = fs::remove_dir(directory);
        }
    }
}

/// The boot and the namespace of process numbers, as Linux tells them.
fn namespace() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let numbers = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    match boot.is_empty() {
        true => String::new(),
        false => format!("{} {}", boot.trim(), numbers.display()),
    }
}

/// Who works in a directory now; nobody where its lock was left behind.
pub fn holder(directory: &Path) -> Option<Holder> {
    let path = directory.join(LOCK);
    read(&path).filter(|holder| !stale(&path, holder))
}

fn read(path: &Path) -> Option<Holder> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

fn old(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|m| m.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE))
}

fn stale(path: &Path, holder: &Holder) -> bool {
    let ours = namespace();
    let comparable = !ours.is_empty() && holder.namespace == ours;
    let gone = || match started(holder.pid) {
        Some(started) => holder.started != 0 && holder.started != started,
        None => !others_are_hidden(),
    };
    (comparable && gone()) || old(path)
}

/// Whether the system may show a user its own processes alone: then one that is not seen need not
/// be gone.
fn others_are_hidden() -> bool {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, "/proc", _, options, ..] = fields[..] else {
            return false;
        };
        let hides = |option: &str| {
            let how = option.strip_prefix("hidepid=");
            how.is_some_and(|how| how != "0" && how != "off")
        };
        options.split(',').any(hides)
    })
}

/// When a process of this machine began, in the kernel's ticks; none if there is no such process.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Removes a stale lock. It is renamed first: of two who see it stale, one alone gets it. Whoever
/// comes later and gets a fresh lock instead puts it back.
fn take_away(path: &Path, stale: Option<u64>) {
    let aside = path.with_extension(format!("stale-{:016x}", rand::random::<u64>()));
    if fs::rename(path, &aside).is_err() {
        return;
    }
    let found = read(&aside).map(|holder| holder.token);
    if found == stale {
        let _ = fs::remove_file(aside);
    } else {
        // A hard link fails where a file is: never over a third lock.
        let _ = fs::hard_link(&aside, path);
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
            Attempt::Held(known) => {
                assert_eq!(known.pid, std::process::id());
                assert_eq!(holder(root.path()), Some(known));
            }
            Attempt::Taken(_) => panic!("two holders"),
        }
        drop(first);
        assert_eq!(holder(root.path()), None);
        assert!(matches!(
            Lock::attempt(root.path()).unwrap(),
            Attempt::Taken(_)
        ));
    }

    #[test]
    fn a_lock_is_whole_from_its_first_moment_and_parts_of_others_go() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(LOCK);
        fs::write(root.path().join("lock.json.12-34.tmp"), "").unwrap();
        let end = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..500 {
                    create(&path, &Holder::this()).unwrap();
                    fs::remove_file(&path).unwrap();
                }
                end.store(true, Ordering::SeqCst);
            });
            // Whenever there is one, it can be read: a kill at that moment leaves its holder.
            while !end.load(Ordering::SeqCst) {
                if let Ok(text) = fs::read_to_string(&path) {
                    assert!(serde_json::from_str::<Holder>(&text).is_ok(), "{text:?}");
                }
            }
        });
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn who_holds_a_place_is_named_and_an_empty_place_is_given_back() {
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join("run");
        let lock = Lock::take(&run).unwrap();
        let error = Lock::take(&run).unwrap_err().to_string();
        let this = format!("process {} on", std::process::id());
        assert!(error.contains(&this) && error.contains(LOCK), "{error}");
        drop(lock);
        assert!(!run.exists());
        let output = root.path().join("answers.jsonl");
        let lock = Lock::take_file(&output).unwrap();
        let error = Lock::take_file(&output).unwrap_err().to_string();
        assert!(
            error.contains(&this) && error.contains("answers.jsonl.lock"),
            "{error}"
        );
        drop(lock);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn locks_left_behind_are_taken_over_and_living_ones_of_other_hosts_are_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(LOCK);
        let leave = |namespace: &str, pid: u32, age: Duration| {
            let holder = Holder {
                pid,
                namespace: namespace.into(),
                ..Holder::unknown()
            };
            fs::write(&path, serde_json::to_string(&holder).unwrap()).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
        };
        let taken = || matches!(Lock::attempt(root.path()).unwrap(), Attempt::Taken(_));
        // No process has this number: it is past every limit.
        leave(&namespace(), u32::MAX - 1, Duration::ZERO);
        assert!(taken());
        // A number that is taken again, as in containers, does not keep an old lock alive.
        leave(&namespace(), std::process::id(), Duration::from_secs(30));
        assert!(!taken());
        leave(
            &namespace(),
            std::process::id(),
            STALE + Duration::from_secs(1),
        );
        assert!(taken());
        let this = Holder::this();
        let later = Holder {
            started: this.started + 1,
            ..this
        };
        fs::write(&path, serde_json::to_string(&later).unwrap()).unwrap();
        assert_eq!(taken(), later.started > 1, "its number is another's by now");
        leave("elsewhere", 1, Duration::from_secs(30));
        assert!(!taken());
        leave("elsewhere", 1, STALE + Duration::from_secs(1));
        assert!(taken());
        fs::write(&path, "{").unwrap();
        assert!(!taken());
    }

    #[test]
    fn a_late_takeover_puts_a_fresh_lock_back_and_a_lost_lock_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(LOCK);
        let Attempt::Taken(fresh) = Lock::attempt(root.path()).unwrap() else {
            panic!("the directory is free");
        };
        take_away(&path, Some(fresh.token.wrapping_add(1)));
        assert_eq!(read(&path).unwrap().token, fresh.token);
        let other = Holder::this();
        fs::write(&path, serde_json::to_string(&other).unwrap()).unwrap();
        drop(fresh);
        assert_eq!(read(&path).unwrap(), other);
    }

    #[test]
    fn nothing_is_written_where_the_lock_is_lost() {
        let root = tempfile::tempdir().unwrap();
        let run = root.path().join("run");
        let place = run.join("checkpoint/model-1.bpk");
        let lock = Lock::take(&run).unwrap();
        let write = |place: &Path| crate::run_directory::write(place, b"x");
        write(&place).unwrap();
        // Another begins where the directory was removed.
        fs::remove_dir_all(&run).unwrap();
        let error = write(&place).unwrap_err().to_string();
        assert!(error.contains("was removed or taken over"), "{error}");
        assert!(!run.exists());
        fs::create_dir(&run).unwrap();
        let other = Holder::this();
        fs::write(run.join(LOCK), serde_json::to_string(&other).unwrap()).unwrap();
        assert!(write(&place).is_err() && !place.exists());
        let other_run = crate::run_directory::RunDirectory::at(&run);
        assert!(other_run.discard_unbegun().is_err() && run.join(LOCK).exists());
        write(&root.path().join("run-2/a.json")).unwrap();
        drop(lock);
        assert_eq!(read(&run.join(LOCK)).unwrap(), other);
        write(&place).unwrap();
    }
}
