//! The first answers to the training questions, and the temperature that they call for.

use std::fs;
use std::path::PathBuf;

use super::metrics::same_log;
use super::{RunDirectory, write};
use crate::error::TrainError;
use crate::json_lines::parse;
use crate::prediction::ScoredRow;
use crate::prequential::{FirstAnswer, FirstAnswersLog, PrequentialTemperature, late, read};

pub(crate) const FIRST_ANSWERS: &str = "prequential.jsonl";
const TEMPERATURE: &str = "adapter/temperature.json";

impl RunDirectory {
    /// The file with the first answers to the training questions.
    pub fn first_answers(&self) -> PathBuf {
        self.root.join(FIRST_ANSWERS)
    }

    /// Opens the file to append, and cuts what came after the optimizer step `keep_steps`: those
    /// steps will be repeated. None where a training that has begun kept no first answers, as those
    /// of earlier versions: what comes now need not be a first one. `known` is the digest that the
    /// lines had at that step, where it was kept.
    ///
    /// # Errors
    /// A file that cannot be read or written, a malformed line, by number, or other lines than
    /// `known` is of.
    pub fn first_answers_log(
        &self,
        keep_steps: usize,
        known: Option<&str>,
    ) -> Result<Option<FirstAnswersLog>, TrainError> {
        let path = self.first_answers();
        if keep_steps > 0 && known.is_none() && !path.is_file() {
            return Ok(None);
        }
        let written = match keep_steps {
            // Whatever an attempt without a checkpoint left, even in the middle of a line.
            0 => String::new(),
            _ => fs::read_to_string(&path).map_err(|e| TrainError::file(&path, e))?,
        };
        let mut answers: Vec<FirstAnswer> = parse(&path, &written)?;
        // Kept to the last digit.
        let lines = written.lines().zip(&answers);
        let kept = lines.filter(|(_, answer)| answer.step <= keep_steps);
        let text: String = kept.flat_map(|(line, _)| [line, "\n"]).collect();
        answers.retain(|answer| answer.step <= keep_steps);
        same_log(&path, &text, known)?;
        self.digests().forget(FIRST_ANSWERS)?;
        write(&path, text.as_bytes())?;
        let known = answers.into_iter().map(|answer| answer.row.id).collect();
        FirstAnswersLog::append(&path, known).map(Some)
    }

    /// The late ones of the first answers, see [`late`]; empty where the training kept none.
    ///
    /// # Errors
    /// A file that cannot be read, or a malformed line, by number.
    pub fn late_first_answers(&self) -> Result<Vec<ScoredRow>, TrainError> {
        let path = self.first_answers();
        match path.is_file() {
            true => read(&path).map(late),
            false => Ok(Vec::new()),
        }
    }

    /// The temperature that the training's first answers call for; absent where it kept none.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn temperature(&self) -> Result<Option<PrequentialTemperature>, TrainError> {
        match self.root.join(TEMPERATURE).try_exists() {
            Ok(false) => Ok(None),
            _ => self.read_json(TEMPERATURE).map(Some),
        }
    }

    /// Writes what [`Self::temperature`] reads.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_temperature(&self, found: PrequentialTemperature) -> Result<(), TrainError> {
        self.keep_json(TEMPERATURE, &found)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;
    use crate::run_directory::digest;

    fn rows(ids: &[&str], gap: f64) -> Vec<ScoredRow> {
        let row = |id: &&str| ScoredRow {
            logits: vec![gap, 0.0],
            ..ScoredRow::from_probabilities(*id, 0, &[0.5, 0.5], None)
        };
        ids.iter().map(row).collect()
    }

    #[test]
    fn a_question_is_kept_at_its_first_answer_and_a_resumed_training_repeats_nothing() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::at(root.path());
        let mut log = run.first_answers_log(0, None).unwrap().unwrap();
        log.write(1, &rows(&["a", "b"], 1.0)).unwrap();
        log.write(2, &rows(&["c"], 1.0)).unwrap();
        let known = digest(&fs::read(run.first_answers()).unwrap());
        log.write(3, &rows(&["a", "d"], 2.0)).unwrap();
        let places = || -> Vec<(usize, String, f64)> {
            let answers = read(&run.first_answers()).unwrap().into_iter();
            answers
                .map(|a| (a.step, a.row.id, a.row.logits[0]))
                .collect()
        };
        let whole = places();
        let expected = [(1, "a", 1.0), (1, "b", 1.0), (2, "c", 1.0), (3, "d", 2.0)];
        let expected = expected.map(|(step, id, gap)| (step, id.to_owned(), gap));
        assert_eq!(whole, expected);
        // The checkpoint was of step 2: what came later is met again, and a torn line is no line.
        let mut file = OpenOptions::new();
        let mut file = file.append(true).open(run.first_answers()).unwrap();
        file.write_all(b"{\"step\":4,\"id").unwrap();
        let mut log = run.first_answers_log(2, Some(&known)).unwrap().unwrap();
        log.write(3, &rows(&["a", "d"], 2.0)).unwrap();
        assert_eq!(places(), expected);
        // A digit of a kept line that changed.
        let text = fs::read_to_string(run.first_answers()).unwrap();
        fs::write(run.first_answers(), text.replacen("1.0", "1.5", 1)).unwrap();
        let error = run.first_answers_log(2, Some(&known)).unwrap_err();
        assert!(error.to_string().contains("prequential.jsonl"), "{error}");
    }

    #[test]
    fn a_training_that_began_without_first_answers_goes_on_without() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::at(root.path());
        assert!(run.first_answers_log(3, None).unwrap().is_none());
        assert!(!run.first_answers().exists());
        // One that kept some does not go on as if it had not.
        assert!(run.first_answers_log(3, Some("digest")).is_err());
    }
}
