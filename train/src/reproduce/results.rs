//! What finished evaluations say, as figures over seeds.

use std::ops::Add;

use serde::Serialize;

use super::caption::{caption, is_papers_model};
use super::figure::{CalibratedAnswers, Figure};
use super::paired_tests::{BySeed, PairedTest, groups, paired_tests};
use super::paper;
use super::plan::{EvaluationJob, Plan, PlannedRow};
use super::records::{Records, TrainingRecord};
use super::tables::{Column, Layout};
use crate::evaluation::Cost;
use crate::metric::{Outcome, outcomes};
use crate::prediction::ScoredRow;
use crate::prequential::FIRST_ANSWERS_SET;
use crate::run_directory::HELD_OUT;

/// Mean and sample standard deviation over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OverSeeds {
    /// The mean of the seeds' values.
    pub mean: f64,
    /// The sample standard deviation, with `n - 1`; absent for one seed.
    pub deviation: Option<f64>,
}

impl OverSeeds {
    /// Computes both; none of no value.
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
    /// What the value is of.
    pub figure: Figure,
    /// The value of each seed.
    pub seeds: Vec<f64>,
    /// Mean and deviation over the seeds.
    pub over_seeds: OverSeeds,
    /// What the paper prints, where model and setting agree.
    pub paper: Option<f64>,
}

/// What a table says of one row in one column.
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

/// What the diagrams of a row are drawn from: its answers in the first column, of all seeds
/// together.
#[derive(Debug, Clone)]
pub struct Answers {
    /// The row's label.
    pub row: String,
    /// Softmax confidence and correctness.
    pub plain: Vec<Outcome>,
    /// Confidence after temperature scaling on held-out questions, and correctness; empty without
    /// held-out answers.
    pub temperature: Vec<Outcome>,
}

impl Answers {
    fn of(row: &str, sets: &[(CalibratedAnswers, usize)]) -> Self {
        let pooled = |form: fn(&CalibratedAnswers) -> Option<&Vec<ScoredRow>>| {
            let rows = sets.iter().filter_map(|(set, _)| form(set)).flatten();
            outcomes(&rows.collect::<Vec<_>>())
        };
        Self {
            row: row.into(),
            plain: pooled(|set| Some(&set.plain)),
            temperature: pooled(|set| set.temperature.as_ref()),
        }
    }
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
    /// The table's name on the command line.
    pub name: String,
    /// The table's heading.
    pub title: String,
    /// The varied quantity of a sweep.
    pub sweep: Option<String>,
    /// Labels of the rows.
    pub rows: Vec<String>,
    /// Labels of the columns.
    pub columns: Vec<String>,
    /// What made it, in sentences.
    pub caption: Vec<String>,
    /// Every cell, row by row.
    pub cells: Vec<Cell>,
    /// Differences from the reference rows, column by column, where a reference has been evaluated.
    pub tests: Vec<PairedTest>,
    /// Costs, one for each row that has been evaluated.
    pub costs: Vec<RowCost>,
    /// Answers, one for each row that has been evaluated in the first column.
    #[serde(skip)]
    pub answers: Vec<Answers>,
    /// Bins of ECE and diagrams.
    #[serde(skip)]
    pub bins: usize,
    /// Resamples of the paired tests.
    #[serde(skip)]
    pub resamples: usize,
    /// Of every column, whether it asks other questions than its training's dataset has.
    #[serde(skip)]
    pub shifted: Vec<bool>,
}

impl ResultTable {
    /// Makes a planned table from what its evaluations left; what is missing stays empty. Paired
    /// tests take a while: not `tested`, they are left out.
    pub fn collect(plan: &Plan, records: &Records, tested: bool) -> Self {
        let (mut cells, mut costs, mut drawn) = (Vec::new(), Vec::new(), Vec::new());
        let mut answers: Vec<Vec<(String, BySeed)>> = vec![Vec::new(); plan.columns.len()];
        for planned in &plan.rows {
            let label = &planned.row.label;
            let mut spent: Vec<Cost> = Vec::new();
            for (column, answers) in plan.columns.iter().zip(&mut answers) {
                let (mut sets, mut plain) = (Vec::new(), BySeed::new());
                let trained_there = |e: &&EvaluationJob| e.config.data.dataset == column.train;
                for evaluation in planned.evaluations.iter().filter(trained_there) {
                    let scored = scored(evaluation, column.test, records);
                    plain.push(scored.as_ref().map(|(set, _)| set.plain.clone()));
                    if let Some((set, cost)) = scored {
                        sets.push((set, plan.bins));
                        spent.extend(cost);
                    }
                }
                cells.push(cell(
                    label,
                    column.label,
                    &sets,
                    published(plan, planned, column),
                ));
                if !sets.is_empty() && column.label == plan.columns[0].label {
                    drawn.push(Answers::of(label, &sets));
                }
                if tested && !sets.is_empty() {
                    answers.push((label.clone(), plain));
                }
            }
            costs.extend(cost(label, &planned.evaluations, &spent, records));
        }
        let mut caption = caption(plan, records);
        let of = |count: fn(usize) -> bool| cells.iter().any(|cell: &Cell| count(cell.seeds));
        if of(|seeds| seeds == 1) && of(|seeds| seeds > 1) {
            caption.push("Figures without a deviation rest on one seed.".into());
        }
        let labels = plan.columns.iter().map(|column| column.label);
        let tests = paired_tests(
            &labels.zip(answers).collect::<Vec<_>>(),
            &groups(&plan.columns),
            &plan.controls(),
            plan.bins,
            plan.bootstrap,
        );
        Self {
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
            tests,
            costs,
            answers: drawn,
            bins: plan.bins,
            resamples: plan.bootstrap.resamples,
            shifted: plan.columns.iter().map(Column::is_shifted).collect(),
        }
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

/// The paper's accuracy and ECE of a cell, where every evaluation of the row is of the paper's
/// model.
fn published(plan: &Plan, planned: &PlannedRow, column: &Column) -> Option<(f64, f64)> {
    let papers = |e: &EvaluationJob| is_papers_model(&e.config.model.name, plan.table.paper_model);
    match planned.evaluations.iter().all(papers) {
        true => paper::value(plan.table.name, &planned.row.label, column.label),
        false => None,
    }
}

/// The answers of an evaluation to a test set, and their cost; none unless that set and the
/// held-out questions have been scored. First answers cost nothing, and what the trained adapter
/// says of held-out questions calibrates neither them nor itself.
fn scored(
    evaluation: &EvaluationJob,
    test: &str,
    records: &Records,
) -> Option<(CalibratedAnswers, Option<Cost>)> {
    let set = records.set(evaluation, test)?;
    let rows = set.rows.clone();
    if [FIRST_ANSWERS_SET, HELD_OUT].contains(&test) {
        return Some((CalibratedAnswers::uncalibrated(rows), None));
    }
    let held_out = records.set(evaluation, HELD_OUT)?;
    let answers = CalibratedAnswers::of(&held_out.rows, rows);
    Some((answers, Some(set.cost)))
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
                let sets: Vec<(CalibratedAnswers, usize)> = group
                    .runs
                    .into_iter()
                    .map(|(held_out, test)| match held_out.is_empty() {
                        true => (CalibratedAnswers::uncalibrated(test), bins),
                        false => (CalibratedAnswers::of(&held_out, test), bins),
                    })
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
            resamples: 0,
            shifted: vec![false],
        }
    }
}

fn cell(
    row: &str,
    column: &str,
    sets: &[(CalibratedAnswers, usize)],
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

/// What a row costs; none where nothing of it has been scored.
fn cost(
    row: &str,
    evaluations: &[EvaluationJob],
    spent: &[Cost],
    records: &Records,
) -> Option<RowCost> {
    let forward_passes = spent.first()?.forward_passes;
    // One dataset's evaluation may be done while another's trainings, earlier in the table, are
    // not.
    let mut trained = evaluations.iter().map(|evaluation| {
        let members = evaluation.members.iter();
        members
            .map(|member| records.training(member))
            .collect::<Option<Vec<_>>>()
    });
    let members = trained.find_map(|members| members)?;
    let seconds = |m: &&TrainingRecord| m.curve.last().map_or(0.0, |point| point.seconds);
    let parameters = members
        .iter()
        .map(|m| m.origin.provenance.trainable_parameters);
    let questions: usize = spent.iter().map(|c| c.questions).sum();
    let total: f64 = spent
        .iter()
        .map(|c| c.seconds_per_question * c.questions as f64)
        .sum();
    Some(RowCost {
        row: row.into(),
        trainable_parameters: parameters.sum(),
        // From 0.0: the sum of no floats is -0.0.
        training_seconds: members.iter().map(seconds).fold(0.0, f64::add),
        forward_passes,
        seconds_per_question: total / questions.max(1) as f64,
    })
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
}
