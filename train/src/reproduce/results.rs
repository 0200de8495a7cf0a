//! What finished evaluations say, as figures over seeds.

use std::path::Path;

use serde::Serialize;

use super::plan::{EvaluationJob, Plan};
use super::tables::Layout;
use super::work::{evaluation_directory, training_directory};
use super::{paper, work};
use crate::error::TrainError;
use crate::evaluation::Cost;
use crate::metric::calibration::{BinEdge, expected_calibration_error};
use crate::metric::paired::{Differences, common, differences};
use crate::metric::{Bootstrap, Outcome, brier, negative_log_likelihood, outcomes, ranking};
use crate::posthoc::Calibrators;
use crate::posthoc::confidence::Information;
use crate::prediction::ScoredRow;
use crate::run_directory::{Environment, HELD_OUT, Provenance, RunDirectory, read_predictions};

/// A figure of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Share of right answers.
    Accuracy,
    /// Of the softmax confidence.
    Ece,
    /// The same after temperature scaling on held-out questions.
    EceTemperature,
    /// The same of the calibrator that combines confidence and FLU.
    EceConfidence,
    /// Negative log-likelihood.
    Nll,
    /// After temperature scaling.
    NllTemperature,
    /// Brier score.
    Brier,
    /// Of correctness, by the softmax confidence.
    Auroc,
    /// The same by the calibrator.
    AurocConfidence,
    /// The same by FLU.
    AurocFlu,
    /// Of FLU as a confidence.
    EceFlu,
    /// Likelihood ratio of FLU beside the softmax confidence, see [`Information`]; below 0 where FLU is higher on wrong answers.
    InformationFlu,
}

impl Figure {
    /// In the order in which they are printed; the paper's two first.
    pub const ALL: [Self; 12] = [
        Self::Accuracy,
        Self::Ece,
        Self::EceTemperature,
        Self::EceConfidence,
        Self::Nll,
        Self::NllTemperature,
        Self::Brier,
        Self::Auroc,
        Self::AurocConfidence,
        Self::AurocFlu,
        Self::EceFlu,
        Self::InformationFlu,
    ];

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "ACC",
            Self::Ece => "ECE",
            Self::EceTemperature => "ECE, temperature",
            Self::EceConfidence => "ECE, confidence with FLU",
            Self::Nll => "NLL",
            Self::NllTemperature => "NLL, temperature",
            Self::Brier => "Brier",
            Self::Auroc => "AUROC",
            Self::AurocConfidence => "AUROC, confidence with FLU",
            Self::AurocFlu => "AUROC of FLU",
            Self::EceFlu => "ECE of FLU",
            Self::InformationFlu => "FLU beside confidence, likelihood ratio",
        }
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        matches!(
            self,
            Self::Accuracy
                | Self::Auroc
                | Self::AurocConfidence
                | Self::AurocFlu
                | Self::InformationFlu
        )
    }

    /// Shares are printed in percent.
    pub fn is_share(self) -> bool {
        !matches!(
            self,
            Self::Nll | Self::NllTemperature | Self::Brier | Self::InformationFlu
        )
    }

    fn of(self, set: &Calibrated, bins: usize) -> Option<f64> {
        let mean = |rows: &[ScoredRow], f: &dyn Fn(&ScoredRow) -> f64| {
            rows.iter().map(f).sum::<f64>() / rows.len() as f64
        };
        let pairs = |rows: &[ScoredRow]| outcomes(&rows.iter().collect::<Vec<_>>());
        let ece =
            |rows: &[ScoredRow]| expected_calibration_error(&pairs(rows), bins, BinEdge::Right);
        let flu = || -> Option<Vec<(f64, bool)>> {
            set.plain
                .iter()
                .map(|r| Some((r.flu?, r.correct())))
                .collect()
        };
        let value = match self {
            Self::Accuracy => mean(&set.plain, &|r| f64::from(u8::from(r.correct()))),
            Self::Ece => ece(&set.plain),
            Self::EceTemperature => ece(&set.temperature),
            Self::EceConfidence => ece(&set.confidence),
            Self::Nll => mean(&set.plain, &negative_log_likelihood),
            Self::NllTemperature => mean(&set.temperature, &negative_log_likelihood),
            Self::Brier => mean(&set.plain, &brier),
            Self::Auroc => ranking::auroc(&pairs(&set.plain)),
            Self::AurocConfidence => ranking::auroc(&pairs(&set.confidence)),
            Self::AurocFlu => ranking::auroc(&flu()?),
            Self::EceFlu => expected_calibration_error(&flu()?, bins, BinEdge::Right),
            Self::InformationFlu => {
                let found = Information::of(&set.plain)?;
                found.likelihood_ratio.copysign(found.weight)
            }
        };
        value.is_finite().then_some(value)
    }
}

/// A scored set in its three forms.
struct Calibrated {
    plain: Vec<ScoredRow>,
    temperature: Vec<ScoredRow>,
    confidence: Vec<ScoredRow>,
}

impl Calibrated {
    fn of(held_out: &[ScoredRow], plain: Vec<ScoredRow>) -> Self {
        let [temperature, confidence] = Calibrators::fit(held_out).apply(&plain);
        Self {
            plain,
            temperature,
            confidence,
        }
    }
}

/// Mean and sample standard deviation over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OverSeeds {
    /// The mean.
    pub mean: f64,
    /// With `n - 1`; absent for one seed.
    pub deviation: Option<f64>,
}

impl OverSeeds {
    /// Of at least one value.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        (!values.is_empty()).then(|| Self {
            mean,
            deviation: (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
        })
    }
}

/// A figure of a cell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Value {
    /// Which.
    pub figure: Figure,
    /// By seed.
    pub seeds: Vec<f64>,
    /// Over them.
    pub over_seeds: OverSeeds,
    /// What the paper prints, where model and setting agree.
    pub paper: Option<f64>,
}

/// A row in a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cell {
    /// The row's label.
    pub row: String,
    /// The column's label.
    pub column: String,
    /// Test questions.
    pub n: usize,
    /// Seeds that have been evaluated.
    pub seeds: usize,
    /// What is known; FLU's figures only with routers.
    pub values: Vec<Value>,
}

/// How a row differs from a reference row in a column.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairedTest {
    /// The reference's label.
    pub reference: String,
    /// The row's label.
    pub row: String,
    /// The column's label.
    pub column: String,
    /// The row less the reference: accuracy, ECE, NLL, Brier score.
    pub differences: Differences,
}

/// What the diagrams of a row are drawn from: its answers in the first column, of all seeds together.
#[derive(Debug, Clone)]
pub struct Answers {
    /// The row's label.
    pub row: String,
    /// Softmax confidence and correctness.
    pub plain: Vec<Outcome>,
    /// The same after temperature scaling on held-out questions.
    pub temperature: Vec<Outcome>,
}

impl Answers {
    fn of(row: &str, sets: &[(Calibrated, usize)]) -> Self {
        let pooled = |form: fn(&Calibrated) -> &[ScoredRow]| {
            let rows = sets.iter().flat_map(|(set, _)| form(set));
            outcomes(&rows.collect::<Vec<_>>())
        };
        Self {
            row: row.into(),
            plain: pooled(|set| &set.plain),
            temperature: pooled(|set| &set.temperature),
        }
    }
}

/// The rows that the others are compared with; a table that has neither compares with its first.
const REFERENCES: [&str; 2] = ["LoRA", "MixLoRA"];

/// A row's answers in a column, seed by seed; none where that seed has not been scored.
type BySeed = Vec<Option<Vec<ScoredRow>>>;

/// Of one column: every row against every reference, by the questions that both have and over the seeds that both have: else the
/// difference between seeds would be in theirs.
fn paired_tests(
    column: &str,
    rows: &[(String, BySeed)],
    bins: usize,
    bootstrap: Bootstrap,
) -> Vec<PairedTest> {
    let mut found = Vec::new();
    let known = |name: &str| REFERENCES.contains(&name);
    let any = rows.iter().any(|(row, _)| known(row));
    for (place, (reference, first)) in rows.iter().enumerate() {
        if !known(reference) && (any || place > 0) {
            continue;
        }
        for (row, other) in rows.iter().filter(|(row, _)| row != reference) {
            let seeds = first.iter().cloned().zip(other.iter().cloned());
            let (first, other): (Vec<_>, Vec<_>) = seeds.filter_map(|(a, b)| a.zip(b)).unzip();
            let shared = first.len();
            let both = common([first, other].concat());
            let (first, other) = both.split_at(shared);
            if first.iter().all(Vec::is_empty) {
                continue;
            }
            found.push(PairedTest {
                reference: reference.clone(),
                row: row.clone(),
                column: column.into(),
                differences: differences(first, other, bins, bootstrap),
            });
        }
    }
    found
}

/// What a row costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RowCost {
    /// The row's label.
    pub row: String,
    /// Trained parameters, all members together.
    pub trainable_parameters: usize,
    /// Seconds of training, all members together.
    pub training_seconds: f64,
    /// Forward passes a question.
    pub forward_passes: usize,
    /// Seconds a question, mean over what was scored.
    pub seconds_per_question: f64,
}

/// A whole table.
#[derive(Debug, Clone, Serialize)]
pub struct ResultTable {
    /// Its name.
    pub name: String,
    /// What it shows.
    pub title: String,
    /// The varied quantity of a sweep.
    pub sweep: Option<String>,
    /// Labels of its rows.
    pub rows: Vec<String>,
    /// Labels of its columns.
    pub columns: Vec<String>,
    /// What made it, in sentences.
    pub caption: Vec<String>,
    /// Row by row.
    pub cells: Vec<Cell>,
    /// Column by column, where a reference has been evaluated.
    pub tests: Vec<PairedTest>,
    /// One a row that has been evaluated.
    pub costs: Vec<RowCost>,
    /// One a row that has been evaluated in the first column.
    #[serde(skip)]
    pub answers: Vec<Answers>,
    /// Bins of ECE and diagrams.
    #[serde(skip)]
    pub bins: usize,
}

impl ResultTable {
    /// Reads what the plan's evaluations left below `root`; what is missing stays empty. Paired tests take a while: not `tested`, they are
    /// left out.
    ///
    /// # Errors
    /// Files that are damaged.
    pub fn collect(plan: &Plan, root: &Path, tested: bool) -> Result<Self, TrainError> {
        let (mut cells, mut costs, mut drawn) = (Vec::new(), Vec::new(), Vec::new());
        let mut answers: Vec<Vec<(String, BySeed)>> = vec![Vec::new(); plan.columns.len()];
        for planned in &plan.rows {
            let mut spent: Vec<Cost> = Vec::new();
            for (column, answers) in plan.columns.iter().zip(&mut answers) {
                let (mut sets, mut plain) = (Vec::new(), BySeed::new());
                let trained_there = |e: &&EvaluationJob| e.config.data.dataset == column.train;
                for evaluation in planned.evaluations.iter().filter(trained_there) {
                    let scored = read(evaluation, column.test, root)?;
                    plain.push(scored.as_ref().map(|(set, _)| set.plain.clone()));
                    if let Some((set, cost)) = scored {
                        sets.push((set, plan.bins));
                        spent.push(cost);
                    }
                }
                let agrees = planned
                    .evaluations
                    .iter()
                    .all(|e| agrees(&e.config.model.name, plan.table.paper_model));
                let published = paper::value(plan.table.name, &planned.row.label, column.label)
                    .filter(|_| agrees);
                cells.push(cell(&planned.row.label, column.label, &sets, published));
                if !sets.is_empty() && column.label == plan.columns[0].label {
                    drawn.push(Answers::of(&planned.row.label, &sets));
                }
                if tested && !sets.is_empty() {
                    answers.push((planned.row.label.clone(), plain));
                }
            }
            costs.extend(cost(
                &planned.row.label,
                &planned.evaluations,
                &spent,
                root,
            )?);
        }
        let mut caption = caption(plan, root)?;
        let of = |count: fn(usize) -> bool| cells.iter().any(|cell: &Cell| count(cell.seeds));
        if of(|seeds| seeds == 1) && of(|seeds| seeds > 1) {
            caption.push("Figures without a deviation rest on one seed.".into());
        }
        Ok(Self {
            name: plan.table.name.into(),
            title: plan.table.title.into(),
            sweep: match plan.table.layout {
                Layout::Sweep(quantity) => Some(quantity.into()),
                Layout::Methods => None,
            },
            rows: plan.rows.iter().map(|r| r.row.label.clone()).collect(),
            columns: plan.columns.iter().map(|c| c.label.to_owned()).collect(),
            caption,
            cells,
            tests: plan
                .columns
                .iter()
                .zip(&answers)
                .flat_map(|(column, rows)| {
                    paired_tests(column.label, rows, plan.bins, Bootstrap::default())
                })
                .collect(),
            costs,
            answers: drawn,
            bins: plan.bins,
        })
    }

    /// The cell of a row and column.
    pub fn cell(&self, row: &str, column: &str) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|c| c.row == row && c.column == column)
    }

    /// A figure of a cell.
    pub fn value(&self, row: &str, column: &str, figure: Figure) -> Option<&Value> {
        let values = &self.cell(row, column)?.values;
        values.iter().find(|value| value.figure == figure)
    }
}

/// Whether a model is the paper's: by its short name, or its repository.
fn agrees(name: &str, paper_model: &str) -> bool {
    let names: &[&str] = match paper_model {
        "llama-2-7b" => &["llama-2-7b", "meta-llama/llama-2-7b-hf"],
        "mistral-7b" => &["mistral-7b", "mistralai/mistral-7b-v0.1"],
        _ => &[],
    };
    names.contains(&name.to_lowercase().as_str())
}

/// The test rows of an evaluation in all forms, if they have been scored.
fn read(
    evaluation: &EvaluationJob,
    test: &str,
    root: &Path,
) -> Result<Option<(Calibrated, Cost)>, TrainError> {
    let missing = work::missing(root, evaluation);
    if missing.iter().any(|set| set == test || set == HELD_OUT) {
        return Ok(None);
    }
    let run = RunDirectory::at(&evaluation_directory(root, evaluation));
    let rows = |set: &str| read_predictions(&run.evaluation(set).join("predictions.jsonl"));
    let set = Calibrated::of(&rows(HELD_OUT)?, rows(test)?);
    let cost = run.read_json(&format!("evaluation/{test}/cost.json"))?;
    Ok(Some((set, cost)))
}

/// Several trainings of one method, such as seeds: what a row of a comparison is made of.
#[derive(Debug, Clone)]
pub struct Group {
    /// The row's label.
    pub name: String,
    /// Held-out and test rows of each training.
    pub runs: Vec<(Vec<ScoredRow>, Vec<ScoredRow>)>,
}

impl ResultTable {
    /// A table of one column from runs that need no plan.
    pub fn of_groups(title: &str, dataset: &str, groups: Vec<Group>, bins: usize) -> Self {
        let rows: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
        let cells = groups
            .into_iter()
            .map(|group| {
                let sets: Vec<(Calibrated, usize)> = group
                    .runs
                    .into_iter()
                    .map(|(held_out, test)| (Calibrated::of(&held_out, test), bins))
                    .collect();
                cell(&group.name, dataset, &sets, None)
            })
            .collect();
        Self {
            name: "compare".into(),
            title: title.into(),
            sweep: None,
            rows,
            columns: vec![dataset.into()],
            caption: vec![format!(
                "Mean and sample standard deviation over the runs of a method. Shares in percent; ECE with {bins} bins. Best bold, second best underlined."
            )],
            cells,
            tests: Vec::new(),
            costs: Vec::new(),
            answers: Vec::new(),
            bins,
        }
    }
}

fn cell(
    row: &str,
    column: &str,
    sets: &[(Calibrated, usize)],
    published: Option<(f64, f64)>,
) -> Cell {
    let value = |figure: Figure| {
        let seeds: Option<Vec<f64>> = sets
            .iter()
            .map(|(set, bins)| figure.of(set, *bins))
            .collect();
        let seeds = seeds?;
        Some(Value {
            figure,
            over_seeds: OverSeeds::of(&seeds)?,
            paper: match figure {
                Figure::Accuracy => published.map(|(accuracy, _)| accuracy / 100.0),
                Figure::Ece => published.map(|(_, ece)| ece / 100.0),
                _ => None,
            },
            seeds,
        })
    };
    Cell {
        row: row.into(),
        column: column.into(),
        n: sets.first().map_or(0, |(set, _)| set.plain.len()),
        seeds: sets.len(),
        values: Figure::ALL.into_iter().filter_map(value).collect(),
    }
}

fn cost(
    row: &str,
    evaluations: &[EvaluationJob],
    spent: &[Cost],
    root: &Path,
) -> Result<Option<RowCost>, TrainError> {
    if spent.is_empty() {
        return Ok(None);
    }
    // One dataset's evaluation may be done while another's trainings, earlier in the table, are not.
    let run = |member| RunDirectory::at(&training_directory(root, member));
    let known = |member| run(member).root().join("data.json").is_file();
    let Some(first) = evaluations.iter().find(|e| e.members.iter().all(known)) else {
        return Ok(None);
    };
    let (mut parameters, mut seconds) = (0, 0.0);
    for member in &first.members {
        let run = run(member);
        parameters += run
            .read_json::<Provenance>("data.json")?
            .trainable_parameters;
        seconds += run.metrics()?.last().map_or(0.0, |line| line.seconds);
    }
    let questions: usize = spent.iter().map(|c| c.questions).sum();
    let total: f64 = spent
        .iter()
        .map(|c| c.seconds_per_question * c.questions as f64)
        .sum();
    Ok(Some(RowCost {
        row: row.into(),
        trainable_parameters: parameters,
        training_seconds: seconds,
        forward_passes: spent[0].forward_passes,
        seconds_per_question: total / questions.max(1) as f64,
    }))
}

/// Model, data, template, budget, machine.
fn caption(plan: &Plan, root: &Path) -> Result<Vec<String>, TrainError> {
    let mut text = Vec::new();
    let evaluations = plan.evaluations();
    // The base model's evaluation has none of the training's settings.
    let trained = evaluations.iter().find(|e| !e.members.is_empty());
    let Some(first) = trained.or(evaluations.first()) else {
        return Ok(text);
    };
    let config = &first.config;
    let limit = |n: Option<usize>| n.map_or("all".into(), |n: usize| format!("at most {n}"));
    text.push(format!(
        "Model {}, template {:?}, scoring {:?}, {} training and {} test questions, {} epochs of batches of {}{}, learning rate {}.",
        config.model.name,
        config.data.template,
        config.data.scoring,
        limit(config.data.train_limit),
        limit(config.data.test_limit),
        config.train.epochs,
        config.train.batch_size,
        config
            .train
            .max_steps
            .map_or(String::new(), |n| format!(", at most {n} steps")),
        config.train.learning_rate
    ));
    let mut seeds: Vec<u64> = evaluations.iter().map(|e| e.config.train.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    text.push(format!(
        "Mean and sample standard deviation over {} seed(s): {}. Shares in percent; ECE with {} bins. Best bold, second best underlined.",
        seeds.len(),
        seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        plan.bins
    ));
    let mut origins: Vec<String> = Vec::new();
    let mut machine = None;
    for evaluation in &evaluations {
        let run = RunDirectory::at(&evaluation_directory(root, evaluation));
        for set in &evaluation.on {
            let found = run.read_json::<Vec<String>>(&format!("evaluation/{set}/sources.json"));
            origins.extend(found.unwrap_or_default());
        }
        if let Ok(found) = run.read_json::<Environment>("environment.json") {
            machine = Some(found);
        }
    }
    origins.sort();
    origins.dedup();
    if !origins.is_empty() {
        text.push(format!("Sources: {}.", origins.join("; ")));
    }
    let open = evaluations
        .iter()
        .filter(|e| !work::missing(root, e).is_empty())
        .count();
    if open > 0 {
        text.push(format!(
            "Unfinished: {open} of {} evaluations are open.",
            evaluations.len()
        ));
    }
    if let Some(machine) = machine {
        text.push(format!(
            "uq4ct {} {}, on {} with {} threads.",
            machine.version,
            machine.commit.as_deref().unwrap_or(""),
            machine.device,
            machine.threads
        ));
    }
    if agrees(&config.model.name, plan.table.paper_model) {
        text.push("In brackets: the paper's value.".into());
    } else if !plan.table.paper_model.is_empty() {
        text.push(format!(
            "The paper's table is of {}: its values are not comparable and are left out.",
            plan.table.paper_model
        ));
    }
    text.extend(plan.notes.iter().cloned());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_sample_deviation() {
        let three = OverSeeds::of(&[1.0, 2.0, 3.0]).unwrap();
        assert_eq!((three.mean, three.deviation), (2.0, Some(1.0)));
        assert_eq!(OverSeeds::of(&[1.5]).unwrap().deviation, None);
        assert_eq!(OverSeeds::of(&[]), None);
    }

    #[test]
    fn rows_are_compared_over_the_seeds_that_both_have() {
        let rows = |right: usize| -> Vec<ScoredRow> {
            let label = |i: usize| usize::from(i >= right);
            let row = |i: usize| {
                ScoredRow::from_probabilities(i.to_string(), label(i), &[0.6, 0.4], None)
            };
            (0..10).map(row).collect()
        };
        let tests = [
            ("LoRA".to_owned(), vec![Some(rows(4)), Some(rows(8)), None]),
            ("Same".to_owned(), vec![None, Some(rows(8)), None]),
            ("Other".to_owned(), vec![None, None, Some(rows(9))]),
        ];
        let found = paired_tests("OBQA", &tests, 15, Bootstrap::default());
        assert_eq!(found.len(), 1);
        let [accuracy, ..] = found[0].differences;
        assert_eq!(
            (found[0].row.as_str(), accuracy.estimate.value),
            ("Same", Some(0.0))
        );
    }

    #[test]
    fn the_papers_model_is_known_by_its_names() {
        assert!(agrees("llama-2-7b", "llama-2-7b"));
        assert!(agrees("meta-llama/Llama-2-7b-hf", "llama-2-7b"));
        assert!(!agrees("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"));
        assert!(!agrees("smollm2-135m", "llama-2-7b"));
        assert!(!agrees("tiny", ""));
    }
}
