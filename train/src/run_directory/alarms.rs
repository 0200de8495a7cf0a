//! `alarms.jsonl`: what went wrong in a training although it went on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use super::{RunDirectory, write};
use crate::alarm::Alarm;
use crate::error::TrainError;
use crate::json_lines::parse;

pub(super) const ALARMS: &str = "alarms.jsonl";

/// `alarms.jsonl`, open to append.
#[derive(Debug)]
pub struct AlarmLog(File);

impl AlarmLog {
    /// Appends an alarm.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, alarm: &Alarm) -> io::Result<()> {
        writeln!(self.0, "{}", serde_json::to_string(alarm)?)
    }
}

impl RunDirectory {
    /// Opens `alarms.jsonl` to append. Alarms after `keep_steps`, whose steps will be repeated, are
    /// cut first.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn alarm_log(&self, keep_steps: usize) -> Result<AlarmLog, TrainError> {
        let path = self.root.join(ALARMS);
        let mut text = String::new();
        for alarm in read(&path)?.iter().filter(|a| a.step <= keep_steps) {
            text += &serde_json::to_string(alarm).map_err(|e| TrainError::file(&path, e))?;
            text.push('\n');
        }
        write(&path, text.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path);
        Ok(AlarmLog(file.map_err(|e| TrainError::file(&path, e))?))
    }

    /// The alarms of the run's training; with several members, of all of theirs.
    ///
    /// # Errors
    /// A file that cannot be read, or a malformed line, by number.
    pub fn alarms(&self) -> Result<Vec<Alarm>, TrainError> {
        let mut found = read(&self.root.join(ALARMS))?;
        for member in self.members() {
            found.extend(read(&member.root.join(ALARMS))?);
        }
        Ok(found)
    }
}

/// The alarms of a file; none without it. A last line that a crash cut short is left out.
fn read(path: &Path) -> Result<Vec<Alarm>, TrainError> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|e| TrainError::file(path, e))?,
    };
    parse(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alarm::AlarmKind;

    #[test]
    fn alarms_of_steps_that_will_be_repeated_are_cut() {
        let root = tempfile::tempdir().unwrap();
        let run = RunDirectory::at(root.path());
        let alarm = |step| Alarm {
            step,
            kind: AlarmKind::RisingLoss,
            message: "x".into(),
        };
        assert_eq!(run.alarms().unwrap(), []);
        let mut log = run.alarm_log(0).unwrap();
        log.write(&alarm(50)).unwrap();
        log.write(&alarm(70)).unwrap();
        run.member(1)
            .alarm_log(0)
            .unwrap()
            .write(&alarm(9))
            .unwrap();
        drop(run.alarm_log(60).unwrap());
        assert_eq!(run.alarms().unwrap(), [alarm(50), alarm(9)]);
        run.write_text(ALARMS, "{}\n").unwrap();
        let error = run.alarms().unwrap_err().to_string();
        assert!(error.contains("alarms.jsonl: line 1"), "{error}");
    }
}
