//! `metrics.jsonl`: a line a step of training and a line a scoring of held-out questions.

use std::fs;
use std::io::ErrorKind;

use super::{RunDirectory, write};
use crate::error::TrainError;
use crate::tracker::{MetricsLine, MetricsLog};

pub(super) const METRICS: &str = "metrics.jsonl";

impl RunDirectory {
    /// Opens `metrics.jsonl` and what is kept beside it to append. Lines after `keep_steps`, whose
    /// steps will be repeated, are cut first; the others stay as they are to the last digit.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn metrics_log(&self, keep_steps: usize) -> Result<MetricsLog, TrainError> {
        let path = self.root.join(METRICS);
        let mut kept = self.metrics_as_written()?;
        kept.retain(|(line, _)| line.step <= keep_steps);
        let (lines, texts): (Vec<MetricsLine>, Vec<String>) = kept.into_iter().unzip();
        let text: String = texts
            .iter()
            .flat_map(|line| [line.as_str(), "\n"])
            .collect();
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
        drop(run.metrics_log(1).unwrap());
        let kept = fs::read_to_string(root.path().join(file)).unwrap();
        assert_eq!(kept, line(1) + "\n");
        put(file, &format!("{}\n{{\n{}\n", line(1), line(3)));
        let error = run.metrics().unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl: line 2"), "{error}");
        // What cannot be read is not taken for nothing.
        fs::remove_file(root.path().join(file)).unwrap();
        fs::create_dir(root.path().join(file)).unwrap();
        assert!(run.metrics().is_err());
    }
}
