//! `metrics.jsonl`: a line a step of training and a line a scoring of held-out questions.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::{RunDirectory, digest, write};
use crate::error::TrainError;
use crate::tracker::{MetricsLine, MetricsLog};

pub(crate) const METRICS: &str = "metrics.jsonl";

impl RunDirectory {
    /// Opens `metrics.jsonl` and what is kept beside it to append. Lines after `keep_steps`, whose
    /// steps will be repeated, are cut first; the others stay as they are to the last digit.
    /// `known` is the digest that they had at that step, where it was kept.
    ///
    /// # Errors
    /// A file that cannot be read or written, or other lines than `known` is of.
    pub fn metrics_log(
        &self,
        keep_steps: usize,
        known: Option<&str>,
    ) -> Result<MetricsLog, TrainError> {
        let path = self.root.join(METRICS);
        let mut kept = self.metrics_as_written()?;
        kept.retain(|(line, _)| line.step <= keep_steps);
        let (lines, texts): (Vec<MetricsLine>, Vec<String>) = kept.into_iter().unzip();
        let text: String = texts
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect();
        same_log(&path, &text, known)?;
        self.digests().forget(METRICS)?;
        write(&path, text.as_bytes())?;
        MetricsLog::open(&self.root, &path, &lines)
    }

    /// The lines of `metrics.jsonl`; none before the first step. A last line cut short by a crash
    /// is left out.
    ///
    /// # Errors
    /// A file that cannot be read, or another line that is malformed, by number.
    pub fn metrics(&self) -> Result<Vec<MetricsLine>, TrainError> {
        let lines = self.metrics_as_written()?.into_iter();
        Ok(lines.map(|(line, _)| line).collect())
    }

    /// The lines of `metrics.jsonl`, each with its text.
    fn metrics_as_written(&self) -> Result<Vec<(MetricsLine, String)>, TrainError> {
        let path = self.root.join(METRICS);
        if path.is_file() {
            self.digests().check(METRICS)?;
        }
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(|e| TrainError::file(&path, e))?,
        };
        let mut lines = Vec::new();
        for (number, line) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
            match serde_json::from_slice(line) {
                Ok(read) => {
                    let text = String::from_utf8_lossy(line).trim_end().to_owned();
                    lines.push((read, text));
                }
                // It was being written when the program died.
                Err(_) if !line.ends_with(b"\n") => {}
                Err(error) => {
                    let reason = format!("line {}: {error}", number + 1);
                    return Err(TrainError::file(&path, reason));
                }
            }
        }
        Ok(lines)
    }
}

/// Refuses lines of a log that are not those of the checkpoint which the training goes on from.
pub(super) fn same_log(path: &Path, text: &str, known: Option<&str>) -> Result<(), TrainError> {
    match known {
        Some(known) if digest(text.as_bytes()) != known => {
            let reason = "its lines are not those of the checkpoint that the training goes on from: copy the file from the original run, or train anew with --overwrite";
            Err(TrainError::file(path, reason))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_last_line_cut_short_is_left_out_of_the_metrics() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::at(root.path());
        let line = |step: usize| {
            // More digits than a float that was read and written again would keep.
            format!(
                r#"{{"split":"train","step":{step},"seconds":0.1,"values":{{"loss":1.2345678901234567890}}}}"#
            )
        };
        assert_eq!(run.metrics().unwrap(), []);
        let file = METRICS;
        let put = |file: &str, text: &str| run.write_text(file, text).unwrap();
        put(
            file,
            &format!("{}\n{}\n{}", line(1), line(2), &line(3)[..30]),
        );
        assert_eq!(run.metrics().unwrap().len(), 2);
        // What is kept is kept to the last digit, and the cut line is gone.
        let known = digest((line(1) + "\n").as_bytes());
        drop(run.metrics_log(1, Some(&known)).unwrap());
        let kept = fs::read_to_string(root.path().join(file)).unwrap();
        assert_eq!(kept, line(1) + "\n");
        put(file, &line(1).replace("0.1", "0.2"));
        let error = run.metrics_log(1, Some(&known)).unwrap_err().to_string();
        assert!(
            error.contains(METRICS) && error.contains("--overwrite"),
            "{error}"
        );
        put(file, &format!("{}\n{{\n{}\n", line(1), line(3)));
        let error = run.metrics().unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl: line 2"), "{error}");
        // What cannot be read is not taken for nothing.
        fs::remove_file(root.path().join(file)).unwrap();
        fs::create_dir(root.path().join(file)).unwrap();
        assert!(run.metrics().is_err());
    }
}
