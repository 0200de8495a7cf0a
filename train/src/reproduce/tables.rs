//! What the paper's tables compare.

use data::names::unknown;

use crate::error::TrainError;
use crate::prequential::FIRST_ANSWERS_SET;
use crate::run_directory::HELD_OUT;

/// A column: trained on one dataset, tested on another or the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The head of the column, as in the paper.
    pub label: &'static str,
    /// Dataset of the training.
    pub train: &'static str,
    /// Dataset of the test, [`HELD_OUT`], or [`FIRST_ANSWERS_SET`].
    pub test: &'static str,
    /// What is trained and tested on where the dataset of the test cannot be had.
    pub stand_in: Option<&'static StandIn>,
}

impl Column {
    /// Whether its questions are asked of what was trained; first answers were given on the way.
    pub fn is_asked(&self) -> bool {
        self.test != FIRST_ANSWERS_SET
    }

    /// Whether its questions are the training's held-out ones, by which settings are chosen.
    pub fn is_held_out(&self) -> bool {
        self.test == HELD_OUT
    }

    /// Whether it asks questions of another dataset than the training's.
    pub fn is_shifted(&self) -> bool {
        self.is_asked() && !self.is_held_out() && self.test != self.train
    }
}

/// A dataset in the place of one that has to be fetched by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandIn {
    /// The head of the column.
    pub label: &'static str,
    /// The dataset, for training and test.
    pub dataset: &'static str,
    /// What the table says where it stands in.
    pub note: &'static str,
}

/// A row: a preset of `configs/method/` with settings of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The label that the table prints.
    pub label: String,
    /// Name of the preset.
    pub preset: &'static str,
    /// `section.key=value`, over the preset.
    pub set: Vec<String>,
    /// Label of the row that differs from it in one thing alone, where the references do not.
    pub control: Option<&'static str>,
}

impl Row {
    fn beside(self, control: &'static str) -> Self {
        Self {
            control: Some(control),
            ..self
        }
    }
}

/// The rows of a table.
#[derive(Debug, Clone)]
pub enum Rows {
    /// Those of a listed table are made when they are asked for.
    Made(fn() -> Vec<Row>),
    /// Those of a sweep.
    Given(Vec<Row>),
}

impl Rows {
    /// Every row, in the order of the table.
    pub fn all(&self) -> Vec<Row> {
        match self {
            Self::Made(rows) => rows(),
            Self::Given(rows) => rows.clone(),
        }
    }
}

/// How a table is printed and drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Methods by columns; drawn as grouped bars.
    Methods,
    /// One quantity is varied; drawn as curves over it.
    Sweep(&'static str),
}

/// A table of the paper, or one of ours.
pub struct Table {
    /// The table's name on the command line.
    pub name: &'static str,
    /// The table's heading.
    pub title: &'static str,
    /// Short name of the paper's model; empty for a table that is not the paper's.
    pub paper_model: &'static str,
    /// The rows.
    pub rows: Rows,
    /// The columns, from left to right.
    pub columns: &'static [Column],
    /// Whether methods are compared or one quantity is varied.
    pub layout: Layout,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

const fn same(label: &'static str, dataset: &'static str) -> Column {
    Column {
        label,
        train: dataset,
        test: dataset,
        stand_in: None,
    }
}

const fn shifted(label: &'static str, test: &'static str) -> Column {
    Column {
        label,
        train: "openbookqa",
        test,
        stand_in: None,
    }
}

const CLIMATEX: StandIn = StandIn {
    label: "ClimateX",
    dataset: "climatex",
    note: "ClimateQA cannot be had here (see `--dataset climateqa`): ClimateX, IPCC confidence levels, \
           stands in its place.",
};

const TASKS: &[Column] = &[
    same("BoolQ", "boolq"),
    same("ARC-E", "arc-easy"),
    same("ARC-C", "arc-challenge"),
    same("OBQA", "openbookqa"),
    Column {
        stand_in: Some(&CLIMATEX),
        ..same("ClimateQA", "climateqa")
    },
];

const SHIFTS: &[Column] = &[
    same("OBQA", "openbookqa"),
    shifted("ARC-C", "arc-challenge"),
    shifted("ARC-E", "arc-easy"),
    shifted("CS", "mmlu-cs"),
    shifted("Eng", "mmlu-eng"),
    shifted("Law", "mmlu-law"),
    shifted("Health", "mmlu-health"),
];

/// Datasets in which a small model has some skill to be certain of.
const SKILLED: &[Column] = &[same("ARC-E", "arc-easy"), same("OBQA", "openbookqa")];

/// The tasks with ClimateX for ClimateQA, whose questions cannot be had, and then the shifts.
const TASKS_AND_SHIFTS: &[Column] = &[
    same("BoolQ", "boolq"),
    same("ARC-E", "arc-easy"),
    same("ARC-C", "arc-challenge"),
    same("OBQA", "openbookqa"),
    same("ClimateX", "climatex"),
    shifted("OBQA to ARC-C", "arc-challenge"),
    shifted("OBQA to ARC-E", "arc-easy"),
    shifted("OBQA to CS", "mmlu-cs"),
    shifted("OBQA to Eng", "mmlu-eng"),
    shifted("OBQA to Law", "mmlu-law"),
    shifted("OBQA to Health", "mmlu-health"),
];

const OBQA: &[Column] = &[same("OBQA", "openbookqa")];

const WHILE_LEARNING: &[Column] = &[Column {
    test: FIRST_ANSWERS_SET,
    ..same("OBQA", "openbookqa")
}];

fn row(label: &str, preset: &'static str) -> Row {
    Row {
        label: label.into(),
        preset,
        set: Vec::new(),
        control: None,
    }
}

fn with(label: String, preset: &'static str, set: &[String]) -> Row {
    Row {
        label,
        preset,
        set: set.to_vec(),
        control: None,
    }
}

/// The paper's six methods.
fn six() -> Vec<Row> {
    vec![
        row("LoRA", "lora"),
        row("MC Drop", "mc_dropout"),
        row("Ensemble", "deep_ensemble"),
        row("LA", "laplace"),
        row("MixLoRA", "mixlora"),
        row("UQ4CT", "uq4ct"),
    ]
}

/// The paper's six, and the cheap Laplace approximation beside its own.
fn seven() -> Vec<Row> {
    let mut rows = six();
    rows.insert(4, row("LLLA", "laplace-last"));
    rows
}

/// The base model, the seven, and every other method.
fn all() -> Vec<Row> {
    let mut rows = vec![row("Base", "base")];
    rows.extend(seven());
    rows.extend([
        row("UQ4CT-delta", "uq4ct-delta"),
        row("UQ4CT-answer", "uq4ct-answer"),
        row("SPUQ", "spuq"),
        row("Checkpoints", "checkpoint_ensemble"),
        row("TFB", "tfb"),
        row("BLoB", "blob"),
        at_first_answers("Calibrated", "calibrated", ""),
        at_first_answers("LoRA (first answers)", "lora", ""),
        at_first_answers("UQ4CT (first answers)", "uq4ct", "calibrated").beside("Calibrated"),
        row("LA-centred", "laplace-centred"),
        row("LoRA-published", "lora-published"),
        row("LA-published", "laplace-published").beside("LoRA-published"),
        row("TFB-public", "tfb-public"),
        row("BLoB-cycles", "blob-cycles"),
        normalized("MixLoRA", "mixlora"),
        normalized("UQ4CT", "uq4ct").beside("MixLoRA-normalized"),
        experts_in_ffn("MixLoRA", "mixlora"),
        experts_in_ffn("UQ4CT", "uq4ct").beside("MixLoRA (ffn)"),
    ]);
    rows
}

/// With FLU's own path to the answer. MixLoRA's row is the control: the kept mass scales the update
/// without the calibration loss, too.
fn normalized(label: &str, preset: &'static str) -> Row {
    with(
        format!("{label}-normalized"),
        preset,
        &["adapter.mixture_weights=normalized_delta".into()],
    )
}

/// The other placement: experts in the feed-forward blocks alone, plain LoRAs in the attention.
fn experts_in_ffn(label: &str, preset: &'static str) -> Row {
    with(
        format!("{label} (ffn)"),
        preset,
        &["adapter.placement=ffn".into()],
    )
}

/// A training asked at the temperature of its first answers. `variant` is in the names of what was
/// recorded: MixLoRA's before the preset `calibrated` was that, UQ4CT's while it was this one.
fn at_first_answers(label: &str, preset: &'static str, variant: &str) -> Row {
    let set = [
        "method.temperature=prequential".to_owned(),
        format!("method.variant={variant}"),
    ];
    with(label.into(), preset, &set)
}

fn betas() -> Vec<Row> {
    ["0", "0.2", "0.5", "0.8", "1", "1.2", "1.5", "1.8", "2"]
        .map(|beta| {
            let set = format!("objective.calibration_weight={beta}");
            with(beta.into(), "uq4ct", &[set])
        })
        .into()
}

fn top_k() -> Vec<Row> {
    (1..=5)
        .map(|k| with(k.to_string(), "uq4ct", &[format!("adapter.top_k={k}")]))
        .collect()
}

fn incremental() -> Vec<Row> {
    vec![
        row("UQ4CT", "uq4ct"),
        row("UQ4CT_Incremental", "uq4ct-incremental"),
    ]
}

fn spuq() -> Vec<Row> {
    vec![row("SPUQ", "spuq"), row("UQ4CT", "uq4ct")]
}

/// What the paper leaves open, one setting at a time against the default.
fn ablations() -> Vec<Row> {
    let mut rows = vec![row("UQ4CT (defaults)", "uq4ct")];
    for (label, set) in [
        ("FLU of the last token", "objective.flu_tokens=last"),
        ("placement: ffn", "adapter.placement=ffn"),
        ("mixture weights: raw", "adapter.mixture_weights=raw"),
        (
            "mixture weights: raw_delta",
            "adapter.mixture_weights=raw_delta",
        ),
        (
            "cross-entropy: sequence",
            "objective.cross_entropy=sequence",
        ),
        ("cross-entropy: choices", "objective.cross_entropy=choices"),
        ("load balancing: top_k", "objective.load_balancing=top_k"),
        (
            "correctness: vocabulary",
            "objective.correctness=vocabulary",
        ),
    ] {
        rows.push(with(label.into(), "uq4ct", &[set.into()]));
    }
    // The control: is it the loss that moves the softmax confidence there, or the weights?
    let control = [
        "adapter.mixture_weights=raw_delta",
        "objective.calibration_weight=0.0",
    ];
    let control = control.map(str::to_owned);
    rows.push(with("raw_delta without the loss".into(), "uq4ct", &control));
    rows
}

/// What might make FLU tell right answers from wrong ones. With cloze scoring, since small models
/// answer by letters at chance.
fn flu() -> Vec<Row> {
    const ANSWER: &str = "objective.flu_tokens=answer";
    const CHOICES: &str = "objective.calibrated=choices";
    const DELTA: &str = "adapter.mixture_weights=raw_delta";
    let variants: &[(&str, &[&str])] = &[
        ("UQ4CT", &[]),
        ("last token", &["objective.flu_tokens=last"]),
        ("routers' rate x10", &["train.router_rate_factor=10.0"]),
        (
            "gradient to routers alone",
            &["objective.calibration_gradient=routers"],
        ),
        ("soft correctness", &["objective.correctness=soft"]),
        (
            "a quarter of the questions apart",
            &["objective.calibration_share=0.25"],
        ),
        ("raw_delta", &[DELTA]),
        // The control: is it the loss that makes FLU of the answer informative?
        (
            "answer without the loss",
            &[ANSWER, "objective.calibration_weight=0.0"],
        ),
        ("answer", &[ANSWER]),
        ("every answer", &[ANSWER, CHOICES]),
        (
            "every answer at rate x10",
            &[ANSWER, CHOICES, "train.router_rate_factor=10.0"],
        ),
        ("every answer with raw_delta", &[ANSWER, CHOICES, DELTA]),
    ];
    let row = |(label, sets): &(&str, &[&str])| {
        let sets = std::iter::once(&"data.scoring=cloze").chain(*sets);
        let sets: Vec<String> = sets.map(|set| (*set).to_owned()).collect();
        with((*label).into(), "uq4ct", &sets)
    };
    variants.iter().map(row).collect()
}

/// The temperature of first answers with each training that can be asked at it.
fn calibrated() -> Vec<Row> {
    vec![
        row("LoRA", "lora"),
        at_first_answers("LoRA (first answers)", "lora", ""),
        row("MixLoRA", "mixlora"),
        at_first_answers("Calibrated", "calibrated", ""),
        row("UQ4CT", "uq4ct"),
        at_first_answers("UQ4CT (first answers)", "uq4ct", "calibrated").beside("Calibrated"),
    ]
}

/// Trainings whose methods answer in one pass.
fn single_pass() -> Vec<Row> {
    vec![
        row("LoRA", "lora"),
        row("MixLoRA", "mixlora"),
        row("UQ4CT", "uq4ct"),
        experts_in_ffn("MixLoRA", "mixlora"),
        experts_in_ffn("UQ4CT", "uq4ct").beside("MixLoRA (ffn)"),
    ]
}

/// Losses over a question's choices, for the mixture without the calibration loss.
fn losses() -> Vec<Row> {
    const CHOICES: &str = "objective.cross_entropy=choices";
    let variants: &[(&str, &[&str])] = &[
        ("cross-entropy of the answer", &[]),
        ("cross-entropy", &[CHOICES]),
        (
            "label smoothing",
            &[CHOICES, "objective.choice_loss=label_smoothing"],
        ),
        ("Brier", &[CHOICES, "objective.choice_loss=brier"]),
        ("focal", &[CHOICES, "objective.choice_loss=focal"]),
        ("focal-53", &[CHOICES, "objective.choice_loss=focal_53"]),
        ("with MMCE", &[CHOICES, "objective.mmce_weight=2.0"]),
    ];
    let row = |(label, sets): &(&str, &[&str])| {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        with((*label).into(), "mixlora", &sets)
    };
    variants.iter().map(row).collect()
}

/// Every table that `reproduce` knows.
pub static TABLES: &[Table] = &[
    Table {
        name: "fig3",
        title: "In-distribution accuracy and ECE (Figure 3)",
        paper_model: "llama-2-7b",
        rows: Rows::Made(seven),
        columns: TASKS,
        layout: Layout::Methods,
    },
    Table {
        name: "table1",
        title: "Trained on OpenBookQA, tested there and under distribution shift (Table 1)",
        paper_model: "llama-2-7b",
        rows: Rows::Made(all),
        columns: SHIFTS,
        layout: Layout::Methods,
    },
    Table {
        name: "table2",
        title: "Weight beta of the calibration loss (Table 2)",
        paper_model: "llama-2-7b",
        rows: Rows::Made(betas),
        columns: OBQA,
        layout: Layout::Sweep("beta"),
    },
    Table {
        name: "table3",
        title: "Constant and incremental weight of the calibration loss (Table 3)",
        paper_model: "llama-2-7b",
        rows: Rows::Made(incremental),
        columns: TASKS,
        layout: Layout::Methods,
    },
    Table {
        name: "table4",
        title: "Another base model (Table 4)",
        paper_model: "mistral-7b",
        rows: Rows::Made(seven),
        columns: TASKS,
        layout: Layout::Methods,
    },
    Table {
        name: "table5",
        title: "Active experts, top-k (Table 5)",
        paper_model: "llama-2-7b",
        rows: Rows::Made(top_k),
        columns: OBQA,
        layout: Layout::Sweep("top-k"),
    },
    Table {
        name: "table6",
        title: "Prompt perturbation, SPUQ (Table 6)",
        paper_model: "llama-2-7b",
        rows: Rows::Made(spuq),
        columns: TASKS,
        layout: Layout::Methods,
    },
    Table {
        name: "ablations",
        title: "What the paper leaves open, one setting at a time",
        paper_model: "",
        rows: Rows::Made(ablations),
        columns: OBQA,
        layout: Layout::Methods,
    },
    Table {
        name: "flu",
        title: "What makes FLU informative",
        paper_model: "",
        rows: Rows::Made(flu),
        columns: SKILLED,
        layout: Layout::Methods,
    },
    Table {
        name: "calibrated",
        title: "The temperature of first answers, in distribution and under shift",
        paper_model: "",
        rows: Rows::Made(calibrated),
        columns: TASKS_AND_SHIFTS,
        layout: Layout::Methods,
    },
    Table {
        name: "losses",
        title: "Losses over a question's choices",
        paper_model: "",
        rows: Rows::Made(losses),
        columns: OBQA,
        layout: Layout::Methods,
    },
    Table {
        name: "first-answers",
        title: "While it learns: training questions before the first step that learns from them",
        paper_model: "",
        rows: Rows::Made(single_pass),
        columns: WHILE_LEARNING,
        layout: Layout::Methods,
    },
];

/// The table of a name.
///
/// # Errors
/// An unknown name, with the known ones.
pub fn find(name: &str) -> Result<&'static Table, TrainError> {
    let found = TABLES.iter().find(|t| t.name.eq_ignore_ascii_case(name));
    found.ok_or_else(|| {
        let known: Vec<_> = TABLES.iter().map(|t| t.name).collect();
        TrainError::config("reproduce", unknown("table", name, &known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigLayers;

    #[test]
    fn every_row_resolves_and_names_known_datasets() {
        for table in TABLES {
            for row in table.rows.all() {
                // `--methods` splits at commas.
                assert!(!row.label.contains(','), "{}: {}", table.name, row.label);
                let mut layers = ConfigLayers::default();
                layers.method(row.preset).unwrap();
                for set in &row.set {
                    layers.set(set).unwrap();
                }
                for column in table.columns {
                    let dataset = match column.is_asked() {
                        true => column.test,
                        false => column.train,
                    };
                    layers.set(&format!("data.dataset={dataset}")).unwrap();
                    layers.resolve().unwrap();
                }
            }
        }
        let weights: Vec<f64> = betas()
            .iter()
            .map(|row| row.set[0].rsplit('=').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(weights, [0.0, 0.2, 0.5, 0.8, 1.0, 1.2, 1.5, 1.8, 2.0]);
    }
}
