//! Which files a dataset of the Hub has. What was found once is kept, so that later runs need no
//! network and mean the same files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Finder;
use super::hub::{self, CONVERTED};
use crate::error::DataError;
use crate::rows::has_known_ending;

/// The files of a branch of a dataset's repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The branch.
    pub revision: String,
    /// Paths of its files.
    pub files: Vec<String>,
}

impl Finder {
    /// The files of a dataset of the Hub: those into which the Hub has converted it, or else its
    /// own.
    ///
    /// # Errors
    /// [`DataError::NotFound`] where the Hub cannot be asked, or has no such dataset.
    pub fn list(&self, repository: &str) -> Result<Listing, DataError> {
        let path = self.listing(repository);
        if let Ok(text) = std::fs::read_to_string(&path)
            && let Ok(known) = serde_json::from_str(&text)
        {
            return Ok(known);
        }
        let fail = |reason: String| DataError::NotFound {
            name: format!("the Hub's dataset {repository}"),
            tried: vec![
                format!("{}: not listed before", path.display()),
                format!("Hugging Face Hub: {reason}"),
            ],
        };
        if self.offline {
            return Err(fail("switched off (HF_HUB_OFFLINE or --offline)".into()));
        }
        for revision in [CONVERTED, "main"] {
            let files = hub::list(repository, revision).map_err(fail)?;
            let files: Vec<String> = files.into_iter().flatten().collect();
            if files.iter().any(|file| file.ends_with(".parquet")) || revision == "main" {
                let listing = Listing {
                    revision: revision.into(),
                    files,
                };
                // Another time it is asked again, where this cannot be kept, or holds nothing that
                // can be read: the Hub may convert it by then.
                if listing.files.iter().any(|f| has_known_ending(Path::new(f))) {
                    let _ = self.keep(&path, &listing);
                }
                return Ok(listing);
            }
        }
        Err(fail("it lists no files".into()))
    }

    fn listing(&self, repository: &str) -> PathBuf {
        let name = repository.replace('/', "--");
        self.cache_dir.join("listings").join(format!("{name}.json"))
    }

    fn keep(&self, path: &Path, listing: &Listing) -> std::io::Result<()> {
        let directory = path.parent().unwrap_or(&self.cache_dir);
        std::fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer(&mut file, listing)?;
        file.persist(path)?;
        Ok(())
    }
}
