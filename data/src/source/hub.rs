//! Files of the Hugging Face Hub, in the Hub's own cache layout. `HF_HOME`, `HF_ENDPOINT` and
//! `HF_TOKEN` are respected.

#[cfg(not(feature = "hub"))]
use super::Located;
#[cfg(not(feature = "hub"))]
use crate::error::DataError;

/// The branch of every public dataset on which the Hub keeps it as parquet, at
/// `configuration/split/0000.parquet`, whatever its own files are.
pub(crate) const CONVERTED: &str = "refs/convert/parquet";

/// Kind of a repository on the Hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepositoryKind {
    /// A model, at `owner/name`.
    Model,
    /// A dataset, at `datasets/owner/name`.
    Dataset,
}

/// One file of a repository on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Kind of the repository.
    pub kind: RepositoryKind,
    /// The repository, `owner/name`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// Path of the file inside the repository.
    pub file: String,
    /// Whether the search goes on without the file, as with an index that single-file models do not
    /// have.
    pub optional: bool,
}

impl HubFile {
    /// A file of a dataset's main branch.
    pub fn dataset(repository: &str, file: String) -> Self {
        Self {
            kind: RepositoryKind::Dataset,
            repository: repository.into(),
            revision: "main".into(),
            file,
            optional: false,
        }
    }

    /// A file of a model.
    pub fn model(repository: &str, revision: &str, file: &str) -> Self {
        Self {
            kind: RepositoryKind::Model,
            repository: repository.into(),
            revision: revision.into(),
            file: file.into(),
            optional: false,
        }
    }
}

impl HubFile {
    /// Whether the file lies in the Hub's cache, by its name alone.
    pub(super) fn is_cached(&self) -> bool {
        lies_there(self)
    }
}

#[cfg(not(feature = "hub"))]
fn lies_there(_: &HubFile) -> bool {
    false
}

/// Why a place did not serve; the search goes on.
type Reason = String;

#[cfg(not(feature = "hub"))]
pub(super) fn cached(_: &[HubFile]) -> Result<Option<Vec<Located>>, DataError> {
    Ok(None)
}

#[cfg(not(feature = "hub"))]
pub(super) fn download(_: &[HubFile]) -> Result<Result<Vec<Located>, Reason>, DataError> {
    Ok(Err("not compiled in: build with feature `hub`".into()))
}

#[cfg(not(feature = "hub"))]
pub(super) fn list(_: &str, _: &str) -> Result<Option<Vec<String>>, Reason> {
    Err("not compiled in: build with feature `hub`".into())
}

/// Without the feature `hub` nothing is asked.
///
/// # Errors
/// Always.
#[cfg(not(feature = "hub"))]
pub fn reachable() -> Result<(), Reason> {
    Err("not compiled in: build with feature `hub`".into())
}

#[cfg(feature = "hub")]
use online::lies_there;
#[cfg(feature = "hub")]
pub use online::reachable;
#[cfg(feature = "hub")]
pub(super) use online::{cached, download, list};

#[cfg(feature = "hub")]
mod online {
    use std::net::{TcpStream, ToSocketAddrs};
    use std::path::PathBuf;
    use std::sync::{OnceLock, mpsc};
    use std::time::Duration;

    use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
    use hf_hub::repository::{RepoTreeEntry, RepoType};
    use hf_hub::{HFClientSync, HFError, HFRepositorySync};
    use indicatif::{ProgressBar, ProgressStyle};
    use url::Url;

    use super::{HubFile, Reason, RepositoryKind};
    use crate::error::DataError;
    use crate::source::{Located, SourceKind};

    /// An unreachable Hub is noticed within this time, once a run.
    const PATIENCE: Duration = Duration::from_secs(5);

    fn client() -> Result<HFClientSync, Reason> {
        HFClientSync::new().map_err(|e| e.to_string())
    }

    /// All files, if they lie in the Hub's cache.
    pub(in crate::source) fn cached(files: &[HubFile]) -> Result<Option<Vec<Located>>, DataError> {
        if files.is_empty() {
            return Ok(None);
        }
        let Ok(client) = client() else {
            return Ok(None);
        };
        let mut found = Vec::new();
        for file in files {
            match fetch(&client, file, true) {
                Ok(path) => match checked(file, path)? {
                    Ok(located) => found.push(located),
                    Err(_) => return Ok(None),
                },
                // The Hub said before that the file does not exist. A gap in the cache is another
                // thing.
                Err(HFError::EntryNotFound { .. }) if file.optional => {}
                Err(_) => return Ok(None),
            }
        }
        Ok((!found.is_empty()).then_some(found))
    }

    pub(super) fn lies_there(file: &HubFile) -> bool {
        client().is_ok_and(|client| fetch(&client, file, true).is_ok())
    }

    /// Downloads all files.
    pub(in crate::source) fn download(
        files: &[HubFile],
    ) -> Result<Result<Vec<Located>, Reason>, DataError> {
        if let Err(reason) = reachable() {
            return Ok(Err(reason));
        }
        let client = match client() {
            Ok(client) => client,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut found = Vec::new();
        for file in files {
            match fetch(&client, file, false) {
                Ok(path) => match checked(file, path)? {
                    Ok(located) => found.push(located),
                    Err(reason) => return Ok(Err(reason)),
                },
                Err(HFError::EntryNotFound { .. } | HFError::LocalEntryNotFound { .. })
                    if file.optional => {}
                Err(error) => return Ok(Err(explain(file, &error))),
            }
        }
        Ok(Ok(found))
    }

    /// Every file of a branch of a dataset; none where there is no such branch.
    pub(in crate::source) fn list(
        repository: &str,
        revision: &str,
    ) -> Result<Option<Vec<String>>, Reason> {
        reachable()?;
        let (owner, name) = repository.split_once('/').unwrap_or(("", repository));
        let dataset = client()?.dataset(owner, name);
        let tree = dataset
            .list_tree()
            .revision(revision)
            .recursive(true)
            .send();
        match tree {
            Ok(entries) => {
                let files = entries.into_iter().filter_map(|entry| match entry {
                    RepoTreeEntry::File { path, .. } => Some(path),
                    RepoTreeEntry::Directory { .. } => None,
                });
                Ok(Some(files.collect()))
            }
            // Both look alike to who may not see a repository; its own branch is there, if it is.
            // What may pass, such as a busy Hub, says nothing of the branch.
            Err(error) if revision != "main" && is_absent(&error) => Ok(None),
            Err(error) => Err(remedied(repository, &error)),
        }
    }

    /// Whether a branch is not there, or not there for who asks.
    fn is_absent(error: &HFError) -> bool {
        match error {
            HFError::RevisionNotFound { .. }
            | HFError::RepoNotFound { .. }
            | HFError::EntryNotFound { .. }
            | HFError::AuthRequired { .. }
            | HFError::Forbidden { .. } => true,
            // Of a list of files the client does not tell what is missing.
            HFError::Http { context } => [404, 410].contains(&context.status.as_u16()),
            _ => false,
        }
    }

    /// A cached file with its commit, if its bytes are what the Hub promised.
    ///
    /// Large files are stored under their own SHA-256; a page with an error message, stored in
    /// their place, is removed.
    fn checked(file: &HubFile, path: PathBuf) -> Result<Result<Located, Reason>, DataError> {
        let HubFile {
            repository,
            file: name,
            ..
        } = file;
        // `<cache>/snapshots/<commit>/<name>`
        let commit = path
            .ancestors()
            .nth(name.split('/').count())
            .and_then(|snapshot| snapshot.file_name())
            .map_or(file.revision.clone(), |c| c.to_string_lossy().into_owned());
        let blob = std::fs::canonicalize(&path).map_err(|e| DataError::io(&path, e))?;
        let promised = blob
            .file_name()
            .map(|n| n.to_string_lossy().into_owned())
            .filter(|n| n.len() == 64 && n.bytes().all(|b| b.is_ascii_hexdigit()));
        let origin = format!("{repository}@{commit}:{name}");
        let located = Located::new(path, SourceKind::Hub, origin)?;
        match promised {
            Some(promised) if promised != located.sha256 => {
                let _ = std::fs::remove_file(&located.path);
                let _ = std::fs::remove_file(&blob);
                Ok(Err(format!(
                    "{repository}: {name}: the bytes have sha256 {}, the Hub promised {promised}; removed, try again",
                    located.sha256
                )))
            }
            _ => Ok(Ok(located)),
        }
    }

    fn fetch(client: &HFClientSync, file: &HubFile, local: bool) -> Result<PathBuf, HFError> {
        let (owner, name) = file
            .repository
            .split_once('/')
            .unwrap_or(("", &file.repository));
        let bar = Bar::new(&file.file, local);
        match file.kind {
            RepositoryKind::Model => download_file(&client.model(owner, name), file, local, bar),
            RepositoryKind::Dataset => {
                download_file(&client.dataset(owner, name), file, local, bar)
            }
        }
    }

    fn download_file<T: RepoType>(
        repository: &HFRepositorySync<T>,
        file: &HubFile,
        local: bool,
        bar: Bar,
    ) -> Result<PathBuf, HFError> {
        repository
            .download_file()
            .filename(file.file.clone())
            .revision(file.revision.clone())
            .local_files_only(local)
            .progress(bar)
            .send()
    }

    /// What went wrong with a file, and what a user can do about it.
    fn explain(file: &HubFile, error: &HFError) -> Reason {
        remedied(&format!("{}: {}", file.repository, file.file), error)
    }

    /// What went wrong, and what a user can do about it.
    fn remedied(what: &str, error: &HFError) -> Reason {
        let remedy = match error {
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
                " (accept the repository's terms on its page and set HF_TOKEN)"
            }
            HFError::RateLimited { .. } => " (the Hub limits your rate: wait, or set HF_TOKEN)",
            _ => "",
        };
        format!("{what}: {error}{remedy}")
    }

    /// Whether the Hub's host answers, found out once a run.
    ///
    /// # Errors
    /// Why it does not, in words.
    pub fn reachable() -> Result<(), Reason> {
        static ANSWER: OnceLock<Result<(), Reason>> = OnceLock::new();
        ANSWER.get_or_init(probe).clone()
    }

    fn probe() -> Result<(), Reason> {
        let endpoint =
            std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into());
        let url = address_of(&endpoint)?;
        let own = match url.scheme() {
            "http" => ["http_proxy", "HTTP_PROXY"],
            _ => ["https_proxy", "HTTPS_PROXY"],
        };
        // Behind a proxy only the proxy can tell.
        let mut proxies = own.into_iter().chain(["all_proxy", "ALL_PROXY"]);
        if proxies.any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty())) {
            return Ok(());
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let address = format!("{host}:{}", url.port_or_known_default().unwrap_or(443));
        // Looking up a name can hang for longer than any time-out of a connection, so both run
        // under one.
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let answer = address
                .to_socket_addrs()
                .map_err(|e| e.to_string())
                .and_then(|found| {
                    let mut last = "no address".to_string();
                    for address in found {
                        match TcpStream::connect_timeout(&address, PATIENCE) {
                            Ok(_) => return Ok(()),
                            Err(e) => last = e.to_string(),
                        }
                    }
                    Err(last)
                });
            let _ = send.send(answer);
        });
        match receive.recv_timeout(PATIENCE) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("{host} is not reachable ({error})")),
            Err(_) => Err(format!(
                "{host} did not answer within {} seconds",
                PATIENCE.as_secs()
            )),
        }
    }

    /// The Hub's address. Without a scheme `localhost:8080` would be one of scheme `localhost`.
    pub(super) fn address_of(endpoint: &str) -> Result<Url, Reason> {
        let url = Url::parse(endpoint).ok();
        let url = url.filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        url.ok_or_else(|| {
            format!("HF_ENDPOINT={endpoint}: expected an address such as https://huggingface.co")
        })
    }

    /// A progress bar on standard error; hidden off a terminal.
    struct Bar(ProgressBar);

    impl Bar {
        fn new(name: &str, hidden: bool) -> Self {
            if hidden {
                return Self(ProgressBar::hidden());
            }
            let bar = ProgressBar::no_length();
            let style = ProgressStyle::with_template(
                "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(name.to_owned());
            Self(bar)
        }
    }

    impl ProgressHandler for Bar {
        fn on_progress(&self, event: &ProgressEvent) {
            let ProgressEvent::Download(event) = event else {
                return;
            };
            match event {
                DownloadEvent::Start { total_bytes, .. } => self.0.set_length(*total_bytes),
                DownloadEvent::Progress { files } => {
                    let done = files.iter().map(|f| f.bytes_completed).sum();
                    self.0.set_position(done);
                }
                DownloadEvent::AggregateProgress {
                    bytes_completed, ..
                } => self.0.set_position(*bytes_completed),
                DownloadEvent::Complete => self.0.finish_and_clear(),
            }
        }
    }
}

#[cfg(all(test, feature = "hub"))]
mod tests {
    use super::online::address_of;

    #[test]
    fn the_hubs_address_has_a_scheme() {
        assert!(address_of("https://huggingface.co").is_ok());
        assert!(address_of("http://127.0.0.1:8080/hub").is_ok());
        for wrong in [
            "hub.example.org",
            "localhost:8080",
            "ftp://hub.example.org",
            "",
        ] {
            let reason = address_of(wrong).unwrap_err();
            assert!(reason.contains("such as https://"), "{reason}");
        }
    }
}
