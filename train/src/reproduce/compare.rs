//! Several runs on the same questions: figures side by side, differences with paired bootstrap
//! tests, reliability diagrams.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::alike::{asked, same_questions};
use super::render;
use super::results::{Group, ResultTable};
use crate::config::RunConfig;
use crate::elsewhere::telling_of;
use crate::error::TrainError;
use crate::lock::Lock;
use crate::metric::Estimate;
use crate::metric::Metrics;
use crate::metric::paired::{Differences, common, differences};
use crate::prediction::ScoredRow;
use crate::report::figures::{Unit, number, show};
use crate::report::shell::{self, Card, cards, figures, folded, part, small, table};
use crate::report::{majority, plot};
use crate::run_directory::RunDirectory;

/// One run's answers to the compared questions.
#[derive(Debug, Clone)]
pub struct Contender {
    /// Method, dataset, model, seed.
    pub name: String,
    /// What of the name tells it from the others'.
    pub label: String,
    /// The run's directory.
    pub run: PathBuf,
    /// The run's answers to the questions that all runs have, in one order.
    pub rows: Vec<ScoredRow>,
    /// Figures over these answers.
    pub metrics: Metrics,
}

/// Runs compared.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The dataset of the questions.
    pub dataset: String,
    /// The runs, the reference first.
    pub contenders: Vec<Contender>,
    /// For each run but the first: accuracy, ECE, NLL, Brier score.
    pub differences: Vec<Differences>,
    /// The first run's base model on the same questions, where its answers were kept.
    pub base: Option<Metrics>,
    /// Means over the runs of one method, model and training dataset.
    pub by_method: ResultTable,
    bins: usize,
    resamples: usize,
}

/// How a figure is taken from a run's.
type Get = fn(&Metrics) -> Estimate;

/// Name and unit of each of [`Differences`].
const FIGURES: [(&str, Unit); 4] = [
    ("Accuracy", Unit::Percent),
    ("ECE", Unit::Percent),
    ("NLL", Unit::Plain),
    ("Brier score", Unit::Plain),
];

/// Loads runs and compares their answers to a dataset's test questions; without a name, to that
/// which all were trained on.
///
/// # Errors
/// A run that is given twice, runs of different datasets without a name, predictions that are
/// missing, no common question, or answers to different questions of one name.
pub fn compare(runs: &[PathBuf], on: Option<&str>) -> Result<Comparison, TrainError> {
    let opened: Vec<(RunDirectory, RunConfig)> = runs
        .iter()
        .map(|run| RunDirectory::open(run))
        .collect::<Result<_, _>>()?;
    for (place, run) in runs.iter().enumerate() {
        let same = |other: &PathBuf| other.canonicalize().ok() == run.canonicalize().ok();
        if runs[..place].iter().any(same) {
            let reason = format!(
                "{} stands twice: a run differs in nothing from itself",
                run.display()
            );
            return Err(TrainError::config("compare", reason));
        }
    }
    let (_, first) = opened
        .first()
        .ok_or_else(|| TrainError::config("compare", "expected at least one run"))?;
    let dataset = on.unwrap_or(&first.data.dataset).to_owned();
    if let Some((_, other)) = opened
        .iter()
        .find(|(_, config)| on.is_none() && config.data.dataset != dataset)
    {
        return Err(TrainError::config(
            "compare",
            format!(
                "the runs were trained on {dataset} and {}: name what to compare them on with --on",
                other.data.dataset
            ),
        ));
    }
    let mut answers: Vec<Vec<ScoredRow>> = Vec::new();
    for (run, _) in &opened {
        let path = run.predictions_file(&dataset);
        if !path.is_file() {
            let reason = format!(
                "is missing: finish the run, or score it with `uq4ct evaluate {} --on {dataset}`",
                run.root().display()
            );
            return Err(TrainError::file(path, reason));
        }
        answers.push(run.predictions(&dataset)?);
    }
    let answers = common(answers);
    if answers.iter().any(Vec::is_empty) {
        return Err(TrainError::config(
            "compare",
            "the runs have no question in common",
        ));
    }
    same_questions(&opened, &dataset, &answers)?;
    let bootstrap = first.bootstrap();
    let bins = first.evaluation.bins;
    let base = opened[0].0.base_predictions(&dataset)?;
    let both = common(vec![answers[0].clone(), base]);
    // Only where it was asked every one of these questions.
    let base = both.into_iter().nth(1);
    let base = base
        .filter(|rows| rows.len() == answers[0].len())
        .map(|rows| Metrics::of(&rows, bins, bootstrap));
    let differences = answers[1..]
        .iter()
        .map(|rows| {
            let [first, rows] = [&answers[0], rows].map(std::slice::from_ref);
            differences(first, rows, bins, bootstrap)
        })
        .collect();
    let names = group_names(opened.iter().map(|(_, config)| config).collect());
    let mut groups: Vec<Group> = Vec::new();
    for (((run, config), rows), name) in opened.iter().zip(&answers).zip(&names) {
        let held_out = run.held_out_predictions(config)?;
        let held_out = match asked(run, config, &dataset)? {
            // Those of another method calibrate nothing.
            Some(asked) if asked.method != config.method => Vec::new(),
            Some(asked) => telling_of(&asked, config, held_out)?,
            None => held_out,
        };
        let name = name.clone();
        let run = (held_out, rows.clone());
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.runs.push(run),
            None => groups.push(Group {
                name,
                runs: vec![run],
            }),
        }
    }
    let title = format!("{} runs on {dataset}", opened.len());
    let by_method = ResultTable::of_groups(&title, &dataset, groups, bins);
    let seeds = opened.iter().map(|(_, config)| config.train.seed);
    let full: Vec<String> = names
        .iter()
        .zip(seeds)
        .map(|(name, seed)| format!("{name}, seed {seed}"))
        .collect();
    let labels = labels(&full, runs);
    let contenders = opened
        .into_iter()
        .zip(answers)
        .zip(names)
        .zip(labels)
        .map(|((((run, config), rows), name), label)| Contender {
            name: format!("{name}, seed {}", config.train.seed),
            label,
            run: run.root().to_path_buf(),
            metrics: Metrics::of(&rows, bins, bootstrap),
            rows,
        })
        .collect();
    Ok(Comparison {
        dataset,
        contenders,
        differences,
        base,
        by_method,
        bins,
        resamples: bootstrap.resamples,
    })
}

/// Method, training dataset and model; where several kinds of run would share such a name, with the
/// settings that tell them apart.
fn group_names(configs: Vec<&RunConfig>) -> Vec<String> {
    let named: Vec<(String, Vec<String>)> = configs
        .into_iter()
        .map(|config| {
            let title = format!(
                "{}, {}, {}",
                config.method.title(),
                config.data.dataset,
                config.model.name
            );
            // Neither seeds nor what is asked afterwards make another kind of run.
            let mut kind = config.clone();
            kind.train.seed = RunConfig::default().train.seed;
            kind.evaluation = Default::default();
            (kind.data.test_limit, kind.data.held_out_limit) = (None, None);
            let changes = kind.changes().lines().map(str::to_owned).collect();
            (title, changes)
        })
        .collect();
    let name = |(title, changes): &(String, Vec<String>)| {
        let alike = || named.iter().filter(|(other, _)| other == title);
        if alike().all(|(_, other)| other == changes) {
            return title.clone();
        }
        let own = changes
            .iter()
            .filter(|change| !alike().all(|(_, other)| other.contains(change)));
        let own: Vec<&str> = own.map(String::as_str).collect();
        match own.is_empty() {
            true => format!("{title} (without the others' settings)"),
            false => format!("{title} ({})", own.join(", ")),
        }
    };
    named.iter().map(name).collect()
}

/// The parts of names that not all have; where nothing tells two apart, their directories do.
fn labels(names: &[String], runs: &[PathBuf]) -> Vec<String> {
    let parts: Vec<Vec<&str>> = names
        .iter()
        .map(|name| name.split(", ").collect())
        .collect();
    let shared = |part: &&str| parts.iter().all(|other| other.contains(part));
    let own: Vec<String> = parts
        .iter()
        .map(|parts| {
            let own = parts.iter().filter(|part| !shared(part)).copied();
            own.collect::<Vec<&str>>().join(", ")
        })
        .collect();
    let alike = |label: &String| own.iter().filter(|other| *other == label).count() > 1;
    let found = own
        .iter()
        .zip(runs)
        .map(|(label, run)| match alike(label) || label.is_empty() {
            true => run.display().to_string(),
            false => label.clone(),
        });
    found.collect()
}

impl Comparison {
    fn title(&self) -> String {
        format!(
            "{} runs on {} (n = {})",
            self.contenders.len(),
            self.dataset,
            self.contenders[0].rows.len()
        )
    }

    /// Head and rows of the figures.
    fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let mut head = vec!["Run".to_owned()];
        head.extend(FIGURES.map(|(name, unit)| match unit {
            Unit::Percent => format!("{name}, %"),
            Unit::Plain => name.into(),
        }));
        head.push("AUROC, %".into());
        let rows = self.contenders.iter().map(|contender| {
            let m = &contender.metrics;
            vec![
                contender.name.clone(),
                show(Some(m.accuracy), Unit::Percent),
                show(Some(m.expected_calibration_error), Unit::Percent),
                show(Some(m.negative_log_likelihood), Unit::Plain),
                show(Some(m.brier_score), Unit::Plain),
                show(Some(m.auroc), Unit::Percent),
            ]
        });
        (head, rows.collect())
    }

    /// Head and rows of the differences from the first run.
    fn difference_table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let mut head = vec![format!("minus {}", self.contenders[0].name)];
        head.extend(FIGURES.map(|(name, _)| name.to_owned()));
        let rows =
            self.contenders[1..]
                .iter()
                .zip(&self.differences)
                .map(|(contender, differences)| {
                    let mut cells = vec![contender.name.clone()];
                    cells.extend(differences.iter().zip(FIGURES).map(|(found, (_, unit))| {
                        let estimate = show(Some(found.estimate), unit);
                        match found.p_value {
                            Some(p) => format!("{estimate}, p = {p:.3}"),
                            None => estimate,
                        }
                    }));
                    cells
                });
        (head, rows.collect())
    }

    fn note(&self) -> String {
        format!(
            "Brackets: 95 % bootstrap interval ({} resamples); differences are resampled by question, p is two-sided. ECE with {} bins.",
            self.resamples, self.bins
        )
    }

    /// As text.
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n", self.title());
        let mut tables = vec![self.table()];
        if self.contenders.len() > 1 {
            tables.push(self.difference_table());
        }
        for (head, rows) in tables {
            let _ = writeln!(text, "\n| {} |", head.join(" | "));
            let _ = writeln!(text, "|---|{}", "---:|".repeat(head.len() - 1));
            for row in rows {
                let _ = writeln!(text, "| {} |", row.join(" | "));
            }
        }
        let _ = write!(text, "\n{}\n\n", self.note());
        text += &render::markdown(&self.by_method);
        text
    }

    /// As one self-contained page: what matters, pictures, tables, where it is from.
    ///
    /// # Errors
    /// A plot that cannot be drawn.
    pub fn html(&self) -> Result<String, TrainError> {
        let title = self.title();
        let mut head = format!("<h1>{}</h1>\n", shell::escape(&title));
        head += &cards(&self.cards(), true);
        let (heads, rows) = self.table();
        let mut tables = table(&heads, &rows, 1);
        tables += &small(&self.note());
        if self.contenders.len() > 1 {
            let (heads, rows) = self.difference_table();
            tables += &folded("Differences", &table(&heads, &rows, 1), true);
        }
        let runs: Vec<Vec<String>> = self
            .contenders
            .iter()
            .map(|contender| vec![contender.name.clone(), contender.run.display().to_string()])
            .collect();
        let runs = table(&["Run".into(), "directory".into()], &runs, 2);
        let parts = [
            head,
            part("pictures", "In pictures", &self.pictures()?),
            part("figures", "Every figure", &tables),
            part("provenance", "The runs", &runs),
        ];
        Ok(shell::page(&title, &parts.concat()))
    }

    fn pictures(&self) -> Result<String, TrainError> {
        let runs = self.contenders.iter();
        let runs: Vec<(&str, &[ScoredRow])> = runs.map(|c| (&*c.label, &*c.rows)).collect();
        let mut found = vec![plot::risks_of(&runs)?];
        for (name, rows) in runs {
            let title = format!("{name}: accuracy by confidence");
            found.push(plot::reliability_diagram(&title, rows, self.bins)?);
        }
        Ok(figures(&found))
    }

    /// The four figures that matter most: the best run's, and beside it everyone's.
    fn cards(&self) -> Vec<Card> {
        let headlines: [(&str, Unit, Get, bool); 4] = [
            ("Accuracy", Unit::Percent, |m| m.accuracy, true),
            (
                "ECE",
                Unit::Percent,
                |m| m.expected_calibration_error,
                false,
            ),
            ("NLL", Unit::Plain, |m| m.negative_log_likelihood, false),
            ("AUROC of correctness", Unit::Percent, |m| m.auroc, true),
        ];
        headlines
            .into_iter()
            .map(|(name, unit, get, higher)| self.card(name, unit, get, higher))
            .collect()
    }

    fn card(&self, name: &str, unit: Unit, get: Get, higher: bool) -> Card {
        let sign = match unit {
            Unit::Percent => " %",
            Unit::Plain => "",
        };
        let value = |contender: &Contender| get(&contender.metrics).value;
        let rank = |value: f64| if higher { value } else { -value };
        let best = self
            .contenders
            .iter()
            .filter_map(|contender| Some((contender, value(contender)?)))
            .max_by(|a, b| rank(a.1).total_cmp(&rank(b.1)));
        let shown = |estimate: Estimate| show(Some(estimate), unit);
        let mut beside: Vec<(String, String)> = self
            .contenders
            .iter()
            .map(|contender| (contender.label.clone(), shown(get(&contender.metrics))))
            .collect();
        let base = self.base.as_ref();
        beside.extend(base.map(|base| ("base model".into(), shown(get(base)))));
        if name == "Accuracy"
            && let Some((_, share)) = majority(&self.contenders[0].rows)
        {
            beside.push(("majority".into(), number(share, unit)));
        }
        Card {
            name: name.into(),
            value: best.map_or("–".into(), |(_, value)| number(value, unit) + sign),
            beside,
            sentence: match best {
                None => "There is nothing to compare.".into(),
                Some((best, _)) => self.verdict(name, best),
            },
        }
    }

    /// Whose figure the best is, and whether that is more than chance.
    fn verdict(&self, name: &str, best: &Contender) -> String {
        let place = self.contenders.iter().position(|c| std::ptr::eq(c, best));
        let place = place.unwrap_or(0);
        let figure = FIGURES.iter().position(|(figure, _)| *figure == name);
        let p = |difference: &Differences| difference[figure?].p_value;
        let others = self.differences.len();
        let found = match place.checked_sub(1) {
            // Against the first run, which every other is compared with. The best of several is
            // so by chance, too: each of them counts as a comparison (Bonferroni).
            Some(place) => self.differences.get(place).and_then(p),
            None => self.differences.iter().filter_map(p).reduce(f64::max),
        };
        let found = match place {
            0 => found,
            _ => found.map(|p| (p * others as f64).min(1.0)),
        };
        let against = match place {
            0 => "every other run",
            _ => &self.contenders[0].label,
        };
        let corrected = match (place, others) {
            (0, _) | (_, 1) => String::new(),
            (_, n) => format!(", corrected for {n} comparisons"),
        };
        let label = &best.label;
        match found {
            Some(p) if p < 0.05 => {
                format!("{label}: better than {against}, p = {p:.3}{corrected}.")
            }
            Some(p) => format!("{label}: not told apart from {against}, p = {p:.3}{corrected}."),
            None => format!("{} has the best; it is not tested.", best.label),
        }
    }

    /// Writes `compare.html`, `.md`, `.csv`, `.tex` and `.json` into a directory.
    ///
    /// # Errors
    /// Files that cannot be written, or another process that works on the directory.
    pub fn write(&self, directory: &Path) -> Result<(), TrainError> {
        let _lock = Lock::wait(directory)?;
        let target = RunDirectory::at(directory);
        target.sweep();
        target.write_text("compare.html", &self.html()?)?;
        target.write_text("compare.md", &self.markdown())?;
        target.write_text("compare.csv", &render::csv(&self.by_method))?;
        target.write_text("compare.tex", &render::latex(&self.by_method))?;
        target.write_json("compare.json", &self.by_method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_tells_runs_apart() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let runs = ["a", "b"].map(PathBuf::from);
        let of = |found: &[&str]| labels(&names(found), &runs);
        assert_eq!(
            of(&["lora, boolq, seed 42", "uq4ct, boolq, seed 42"]),
            ["lora", "uq4ct"]
        );
        assert_eq!(
            of(&["lora, boolq, seed 42", "lora, boolq, seed 43"]),
            ["seed 42", "seed 43"]
        );
        assert_eq!(of(&["lora, boolq, seed 42"; 2]), ["a", "b"]);
        assert_eq!(labels(&names(&["lora, boolq"]), &runs[..1]), ["a"]);
    }

    #[test]
    fn only_seeds_of_one_kind_of_run_share_a_name() {
        let plain = RunConfig::default();
        let mut seed = plain.clone();
        seed.train.seed = 43;
        seed.data.test_limit = Some(5);
        let names = group_names(vec![&plain, &seed]);
        assert_eq!(names, ["uq4ct, boolq, smollm2-135m"; 2]);
        let mut delta = plain.clone();
        delta.adapter.top_k = 3;
        let names = group_names(vec![&plain, &seed, &delta]);
        assert_eq!(names[0], names[1]);
        assert_eq!(names[2], "uq4ct, boolq, smollm2-135m (adapter.top_k = 3)");
        assert_ne!(names[0], names[2]);
    }
}
