//! Which questions: a dataset by name or files of the user's own, and how their fields are named.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use data::dataset::custom::{self, Custom, TaskFile};
use train::config::ConfigLayers;

use super::flags;
use super::process::quoted;

/// Flags that name the fields of a file of questions. Without one, usual names are looked for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Fields of your own files")]
pub(super) struct FieldArgs {
    /// Field of the question [default: question, or a usual name that the file has]
    #[arg(long, value_name = "FIELD")]
    question_field: Option<String>,
    /// Field of the list of choices, or the fields of the single ones, separated by commas
    /// [default: choices, or usual names that the file has]
    #[arg(long, value_name = "FIELD,..", value_delimiter = ',')]
    choices_field: Option<Vec<String>>,
    /// Field of the right answer: an index, a letter or the choice's text [default: answer, or a
    /// usual name that the file has]
    #[arg(long, value_name = "FIELD")]
    answer_field: Option<String>,
    /// Field of a text that answers the question [default: context, or a usual name that the file
    /// has]
    #[arg(long, value_name = "FIELD")]
    context_field: Option<String>,
    /// Field of what a row shares with others, such as a document [default: group]
    #[arg(long, value_name = "FIELD")]
    group_field: Option<String>,
    /// Field of the list of other accepted answers, where the model writes the answer [default:
    /// aliases]
    #[arg(long, value_name = "FIELD")]
    aliases_field: Option<String>,
}

impl FieldArgs {
    /// The flags that take one field: name, setting and value.
    fn single(&self) -> [(&'static str, &'static str, &Option<String>); 5] {
        [
            ("question", "question", &self.question_field),
            ("answer", "answer", &self.answer_field),
            ("context", "passage", &self.context_field),
            ("group", "group", &self.group_field),
            ("aliases", "aliases", &self.aliases_field),
        ]
    }

    /// The same flags, as another verb takes them.
    pub(super) fn flags(&self) -> String {
        let single = self.single();
        let single = single
            .iter()
            .filter_map(|(flag, _, value)| Some((*flag, value.as_ref()?.clone())));
        let choices = self.choices_field.iter();
        let all = single.chain(choices.map(|fields| ("choices", fields.join(","))));
        all.map(|(flag, value)| format!(" --{flag}-field {}", quoted(&value)))
            .collect()
    }

    /// Lays the fields that are given over settings.
    pub(super) fn lay(&self, layers: &mut ConfigLayers) -> Result<()> {
        for (_, setting, value) in self.single() {
            if let Some(field) = value {
                layers.set_text(&format!("data.custom.{setting}"), field)?;
            }
        }
        if let Some(fields) = &self.choices_field {
            layers.set_texts("data.custom.choices", fields)?;
        }
        Ok(())
    }

    /// The fields as settings. `others` count where a flag is not given.
    pub(super) fn over(&self, others: &Custom) -> Custom {
        let mut fields = others.clone();
        for (_, setting, value) in self.single() {
            let field = match setting {
                "question" => &mut fields.question,
                "answer" => &mut fields.answer,
                "passage" => &mut fields.passage,
                "group" => &mut fields.group,
                _ => &mut fields.aliases,
            };
            if let Some(own) = value {
                field.clone_from(own);
            }
        }
        if let Some(own) = &self.choices_field {
            fields.choices.clone_from(own);
        }
        fields
    }

    /// The first flag that is given.
    pub(super) fn first(&self) -> Option<String> {
        let single = self.single();
        let mut given = single.iter().filter(|(_, _, value)| value.is_some());
        let choices = self.choices_field.is_some().then_some("choices");
        let name = given.next().map(|(flag, _, _)| *flag).or(choices)?;
        Some(format!("--{name}-field"))
    }
}

/// Flags that say which questions are trained on and tested with.
#[derive(Debug, Args)]
pub(super) struct DatasetArgs {
    #[arg(long, help = datasets(), value_parser = flags::dataset)]
    dataset: Option<String>,
    /// Test questions, beside a --dataset of your own [default: a share of it]
    #[arg(long, value_name = "FILE")]
    test: Option<String>,
    /// Held-out questions, beside a --dataset of your own [default: a share of it]
    #[arg(long, value_name = "FILE")]
    held_out: Option<String>,
    #[command(flatten)]
    fields: FieldArgs,
}

impl DatasetArgs {
    /// Lays what is given over settings.
    pub(super) fn lay(&self, layers: &mut ConfigLayers) -> Result<()> {
        if let Some(dataset) = &self.dataset {
            name_dataset(layers, dataset)?;
        }
        for (key, file) in [("test", &self.test), ("held_out", &self.held_out)] {
            if let Some(file) = file {
                layers.set_text(&format!("data.custom.{key}"), &anchored(file)?)?;
            }
        }
        self.fields.lay(layers)
    }

    /// Refuses flags about own files where the questions are of a dataset by name.
    pub(super) fn refuse_unread(&self, dataset: &str) -> Result<()> {
        if dataset == custom::NAME {
            return Ok(());
        }
        let test = self.test.as_ref().map(|_| "--test".to_owned());
        let held_out = self.held_out.as_ref().map(|_| "--held-out".to_owned());
        match test.or(held_out).or_else(|| self.fields.first()) {
            Some(flag) => bail!(
                "{flag}: is about files of your own, but the dataset is {dataset}: leave it out, or name a file with --dataset"
            ),
            None => Ok(()),
        }
    }
}

/// The values of `--dataset`.
pub(super) fn datasets() -> String {
    let names: Vec<&str> = data::dataset::DATASETS.iter().map(|d| d.name()).collect();
    format!(
        "{}, a file of your own (.jsonl, .json, .csv, .tsv, .parquet), owner/name or owner/name:configuration on the Hub, a task file (.toml), or custom with data.custom settings",
        names.join(", ")
    )
}

/// `--dataset`: a name, or a file of the user's own.
pub(super) fn name_dataset(given: &mut ConfigLayers, dataset: &str) -> Result<()> {
    let path = Path::new(dataset);
    let is_task = path.extension().is_some_and(|ending| ending == "toml");
    if is_task {
        given.set("data.dataset=custom")?;
        return lay_task(given, dataset);
    }
    if flags::is_file(dataset) {
        given.set("data.dataset=custom")?;
        return Ok(given.set_text("data.custom.train", &anchored(dataset)?)?);
    }
    if flags::is_on_hub(dataset) {
        given.set("data.dataset=custom")?;
        return Ok(given.set_text("data.custom.hub", dataset)?);
    }
    Ok(given.set_text("data.dataset", dataset)?)
}

/// What a task file says of its questions. How it makes them of rows, the run reads from the file.
fn lay_task(given: &mut ConfigLayers, file: &str) -> Result<()> {
    let path = anchored(file)?;
    let task = TaskFile::read(Path::new(&path))?;
    given.set_text("data.custom.task", &path)?;
    if let Some(dataset) = &task.dataset {
        given.set_text("data.custom.hub", dataset)?;
    }
    for (key, file) in [
        ("train", &task.train),
        ("held_out", &task.held_out),
        ("test", &task.test),
    ] {
        if let Some(file) = file {
            let file = anchored(&file.display().to_string())?;
            given.set_text(&format!("data.custom.{key}"), &file)?;
        }
    }
    if task.prompt.is_some() {
        given.set("data.template=plain")?;
    }
    given.set(&format!(
        "data.custom.answer_by_choice={}",
        task.answer_by_choice
    ))?;
    Ok(given.set(&format!("data.custom.written={}", task.written))?)
}

/// A file's whole path: a run may be resumed or evaluated from another directory.
fn anchored(file: &str) -> Result<String> {
    let path = std::path::absolute(file).with_context(|| format!("{file}: no such file"))?;
    Ok(path.display().to_string())
}
