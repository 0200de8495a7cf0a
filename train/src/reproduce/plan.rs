//! Rows and columns to trainings and evaluations, each named by what decides its content.

use std::path::Path;

use data::names::unknown;
use data::source::Finder;
use sha2::{Digest, Sha256};

use super::columns::columns;
use super::options::Options;
use super::tables::{Column, Row, Table};
use crate::config::readers::is_read_by_evaluation_alone;
use crate::config::{
    AnswerTemperature, ConfigLayers, EvaluationSection, RateSchedule, RunConfig, TrainSection,
    spelled,
};
use crate::error::TrainError;
use crate::method;
use crate::metric::Bootstrap;
use crate::prequential::FIRST_ANSWERS_SET;
use crate::registry;
use crate::run_directory::HELD_OUT;

/// One training: a member of one or more rows.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingJob {
    /// Name of the training's directory.
    pub id: String,
    /// The settings that decide the adapter; everything else is as by default.
    pub config: RunConfig,
}

/// One method with one seed, trained on one dataset and tested on some.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationJob {
    /// Name of the evaluation's directory.
    pub id: String,
    /// The method's settings.
    pub config: RunConfig,
    /// The trainings whose adapters are asked; none for the base model.
    pub members: Vec<TrainingJob>,
    /// Sets to test on: datasets, or [`FIRST_ANSWERS_SET`].
    pub on: Vec<String>,
}

impl EvaluationJob {
    /// The sets that it scores. Every dataset wants the held-out questions, which calibrate; first
    /// answers do not.
    pub fn sets(&self) -> Vec<&str> {
        let on = self.on.iter().map(String::as_str);
        let held_out = self.datasets().next().map(|_| HELD_OUT);
        held_out.into_iter().chain(on).collect()
    }

    /// The datasets among the sets, whose questions are asked.
    pub fn datasets(&self) -> impl Iterator<Item = &str> {
        let on = self.on.iter().map(String::as_str);
        on.filter(|set| *set != FIRST_ANSWERS_SET)
    }

    /// The evaluation whose answers these are but for the temperature of first answers; none where
    /// they have no such temperature. It is applied after the pass, so that nothing has to be asked
    /// twice.
    pub fn at_temperature_one(&self) -> Option<Self> {
        if self.config.method.temperature == AnswerTemperature::One {
            return None;
        }
        let mut config = self.config.clone();
        config.method.temperature = AnswerTemperature::One;
        config.method.variant.clear();
        Some(Self {
            id: identity(&config),
            config,
            ..self.clone()
        })
    }
}

/// A row of the plan: its evaluations by seed and by training dataset.
#[derive(Debug, Clone)]
pub struct PlannedRow {
    /// The table's row.
    pub row: Row,
    /// One evaluation for each seed and training dataset.
    pub evaluations: Vec<EvaluationJob>,
}

/// Everything that a table needs.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The table that is planned.
    pub table: &'static Table,
    /// The columns, with stand-ins for datasets that cannot be had.
    pub columns: Vec<Column>,
    /// The rows, with their evaluations.
    pub rows: Vec<PlannedRow>,
    /// Equal-width bins of the calibration errors.
    pub bins: usize,
    /// Resamples of the paired tests.
    pub bootstrap: Bootstrap,
    /// Which columns were replaced or left out, and why.
    pub notes: Vec<String>,
    /// Which rows were left out, and why.
    pub left_out: Vec<String>,
}

/// Seeds are this far apart, so that ensembles of different seeds share no member.
const SEED_STEP: u64 = 100;

impl Plan {
    /// Plans a table. `finder` is asked which datasets are there; without one they are taken
    /// to be, and a stand-in is taken where [`Options::on`] names it.
    ///
    /// # Errors
    /// Unknown methods or datasets, settings that do not resolve, and settings that the rows and
    /// columns decide.
    pub fn new(options: &Options, finder: Option<&Finder>) -> Result<Self, TrainError> {
        for key in [
            "method.name",
            "method.variant",
            "data.dataset",
            "train.seed",
        ] {
            if options.given.has(key) {
                let reason = "is decided by the table: use --methods, --on and --seeds";
                return Err(TrainError::config(key, reason));
            }
        }
        if options.given.has("adapter.from") {
            let reason = "the rows of a table begin from scratch: use train --adapter";
            return Err(TrainError::config("adapter.from", reason));
        }
        let mut notes = Vec::new();
        let columns = columns(options, finder, &mut notes)?;
        if !columns.iter().all(Column::is_asked) && options.given.has("method.temperature") {
            let reason = "is fitted on the first answers that this table judges: leave it out";
            return Err(TrainError::config("method.temperature", reason));
        }
        let (rows, left_out) = comparable(options, rows(options)?)?;
        let mut trained_on: Vec<&str> = Vec::new();
        for column in &columns {
            if !trained_on.contains(&column.train) {
                trained_on.push(column.train);
            }
        }
        let mut planned = Vec::new();
        let mut figures = EvaluationSection::default();
        for row in rows {
            figures = settings(options, &row, trained_on[0], 0)?.evaluation;
            let mut evaluations = Vec::new();
            for seed in 0..options.seeds as u64 {
                for train in &trained_on {
                    // Every evaluation asks the held-out questions.
                    let tests = columns
                        .iter()
                        .filter(|c| c.train == *train && !c.is_held_out());
                    let on = tests.map(|c| c.test.to_owned()).collect();
                    evaluations.push(evaluation(options, &row, train, seed, on)?);
                }
            }
            planned.push(PlannedRow { row, evaluations });
        }
        Ok(Self {
            table: options.table,
            columns,
            rows: planned,
            bins: figures.bins,
            bootstrap: Bootstrap {
                resamples: figures.bootstrap,
                ..Default::default()
            },
            notes,
            left_out,
        })
    }

    /// Every training once, in the order of first need.
    pub fn trainings(&self) -> Vec<TrainingJob> {
        let mut found: Vec<TrainingJob> = Vec::new();
        for evaluation in self.evaluations() {
            for member in evaluation.members {
                if found.iter().all(|known| known.id != member.id) {
                    found.push(member);
                }
            }
        }
        found
    }

    /// Labels of the rows that have a control, each with its control's.
    pub fn controls(&self) -> Vec<(&str, &str)> {
        let rows = self.rows.iter().map(|planned| &planned.row);
        rows.filter_map(|row| Some((&*row.label, row.control?)))
            .collect()
    }

    /// The text of the file that [`Options::recorded`] reads, with the rows and columns that there
    /// are.
    pub fn record(&self, options: &Options) -> String {
        let options = Options {
            methods: self.rows.iter().map(|row| row.row.label.clone()).collect(),
            on: self.columns.iter().map(|c| c.test.to_owned()).collect(),
            ..options.clone()
        };
        options.text()
    }

    /// Names the plan: other rows, columns, seeds or sizes give another.
    pub fn identity(&self) -> String {
        let mut ids: Vec<String> = self.evaluations().into_iter().map(|e| e.id).collect();
        ids.extend(self.columns.iter().map(|c| c.test.to_owned()));
        short_hash(&ids.join(" "))
    }

    /// Every evaluation once.
    pub fn evaluations(&self) -> Vec<EvaluationJob> {
        let mut found: Vec<EvaluationJob> = Vec::new();
        for evaluation in self.rows.iter().flat_map(|row| &row.evaluations) {
            if found.iter().all(|known| known.id != evaluation.id) {
                found.push(evaluation.clone());
            }
        }
        found
    }
}

fn rows(options: &Options) -> Result<Vec<Row>, TrainError> {
    let all = options.table.rows.all();
    // A preset's name is that of its plain row; of all its rows where each has settings of its own.
    let by_preset = |row: &Row| {
        let plain = |other: &Row| other.preset == row.preset && other.set.is_empty();
        row.set.is_empty() || !all.iter().any(plain)
    };
    // A row's label may be another row's preset in capitals, so case counts where it tells apart.
    let named = |row: &Row, name: &str| {
        let exactly = |row: &Row| row.label == name || (row.preset == name && by_preset(row));
        match all.iter().any(exactly) {
            true => exactly(row),
            false => {
                let preset = row.preset.eq_ignore_ascii_case(name) && by_preset(row);
                preset || row.label.eq_ignore_ascii_case(name)
            }
        }
    };
    for name in &options.methods {
        if !all.iter().any(|row| named(row, name)) {
            let named = all.iter().map(|row| match by_preset(row) {
                true => row.preset,
                false => &row.label,
            });
            let known: Vec<&str> = named.collect();
            let table = options.table.name;
            let reason = unknown(&format!("row of {table}"), name, &known);
            return Err(TrainError::config("--methods", reason));
        }
    }
    let kept = all.iter().filter(|row| {
        options.methods.is_empty() || options.methods.iter().any(|name| named(row, name))
    });
    Ok(kept.cloned().collect())
}

/// Leaves out the rows whose preset scores choices in another way than the others do.
fn comparable(options: &Options, rows: Vec<Row>) -> Result<(Vec<Row>, Vec<String>), TrainError> {
    let asked = options.given.parse()?.data.scoring;
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for row in rows {
        let mut layers = ConfigLayers::default();
        layers.method(row.preset)?;
        layers.layer(options.given.clone());
        let own = layers.parse()?.data.scoring;
        if own == asked {
            kept.push(row);
        } else {
            left_out.push(format!(
                "{} is about {} scoring and left out: `--set data.scoring=..` decides for all rows.",
                row.label,
                spelled(&own)
            ));
        }
    }
    match kept.is_empty() {
        true => Err(TrainError::config("--methods", left_out.join(" "))),
        false => Ok((kept, left_out)),
    }
}

/// A row's settings on a training dataset, with its seed.
fn settings(options: &Options, row: &Row, train: &str, seed: u64) -> Result<RunConfig, TrainError> {
    let mut layers = ConfigLayers::default();
    layers.method(row.preset)?;
    layers.layer(options.given.clone());
    for set in &row.set {
        let key = set.split('=').next().unwrap_or_default();
        if options.given.has(key) {
            return Err(TrainError::config(
                key,
                format!("is what {} varies: leave it out", options.table.name),
            ));
        }
        layers.set(set)?;
    }
    layers.set_text("data.dataset", train)?;
    let mut config = layers.resolve()?;
    config.train.seed += seed * SEED_STEP;
    let members = registry::build(&config)?.members();
    if members as u64 > SEED_STEP {
        let reason = format!(
            "a table takes at most {SEED_STEP} members, so that the ensembles of two seeds share none: lower it"
        );
        return Err(TrainError::config("method.members", reason));
    }
    // Such a training keeps what a checkpoint ensemble wants, so that one training serves all.
    if registry::shares_snapshots(&config)? {
        config.train.snapshots = config.train.snapshots.max(3);
    }
    Ok(config)
}

fn evaluation(
    options: &Options,
    row: &Row,
    train: &str,
    seed: u64,
    on: Vec<String>,
) -> Result<EvaluationJob, TrainError> {
    let mut config = settings(options, row, train, seed)?;
    // How figures are taken from the answers does not change them; how far a written answer is
    // trusted does.
    config.evaluation = EvaluationSection {
        batch_tokens: config.evaluation.batch_tokens,
        answer_confidence: config.evaluation.answer_confidence,
        ..Default::default()
    };
    let built = registry::build(&config)?;
    if built.adapter() == model::AdapterConfig::None {
        // Without training no seed makes a difference: one evaluation serves all.
        config = registry::read_settings(&config)?;
        config.train.seed = TrainSection::default().seed;
    }
    let members = match built.adapter() {
        model::AdapterConfig::None => Vec::new(),
        _ => (0..built.members() as u64)
            .map(|member| training(&config, config.train.seed + member))
            .collect::<Result<_, _>>()?,
    };
    Ok(EvaluationJob {
        id: identity(&config),
        config,
        members,
        on,
    })
}

/// The training behind a method, without what only its evaluation reads.
fn training(config: &RunConfig, seed: u64) -> Result<TrainingJob, TrainError> {
    let config = registry::training_settings(config, seed)?;
    let config = config.keeping(|key| !is_read_by_evaluation_alone(key))?;
    Ok(TrainingJob {
        id: identity(&config),
        config,
    })
}

/// `openbookqa-lora-smollm2-135m-s42-1a2b3c4d`: readable, and different for any difference in the
/// settings.
fn identity(config: &RunConfig) -> String {
    let name = config.directory(Path::new(""));
    format!("{}-{}", name.display(), short_hash(&named(config)))
}

/// What a name says of some settings: where they differ from the defaults that were there when
/// results were first recorded, so that a newer default renames none of them.
fn named(config: &RunConfig) -> String {
    let mut unnamed = RunConfig::default();
    // The base model reads no schedule: it has the default, whichever that is.
    if config.method.name != method::base::ENTRY.name {
        unnamed.train.schedule = RateSchedule::Constant;
    }
    config.changes_from(&unnamed)
}

fn short_hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    digest[..4].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::reproduce::sweep::{self, Varied};
    use crate::reproduce::tables;

    fn options(table: &str, seeds: usize) -> Options {
        let mut given = ConfigLayers::default();
        given.set("model.name=tiny").unwrap();
        given.set("data.test_limit=8").unwrap();
        Options {
            table: tables::find(table).unwrap(),
            seeds,
            methods: vec![],
            on: vec![],
            given,
            root: PathBuf::new(),
        }
    }

    #[test]
    fn how_far_written_answers_are_trusted_is_part_of_the_answers() {
        let varied = Varied::read("evaluation.answer_confidence=mean,product").unwrap();
        let table = sweep::table(&[varied], "lora", "triviaqa", "TriviaQA").unwrap();
        let plan = |setting: &str| {
            let mut options = options("table1", 1);
            options.table = table;
            options.given.set(setting).unwrap();
            Plan::new(&options, None).unwrap()
        };
        let ids = |plan: &Plan| -> Vec<String> {
            let evaluations = plan.evaluations();
            evaluations.iter().map(|e| e.id.clone()).collect()
        };
        let plain = plan("evaluation.bins=15");
        let [mean, product] = &ids(&plain)[..] else {
            panic!("two rows");
        };
        assert_ne!(mean, product);
        // Bins and resamples change no answer, and are what was asked for.
        let [fewer, resampled] = ["evaluation.bins=10", "evaluation.bootstrap=50"].map(plan);
        assert_eq!([ids(&fewer), ids(&resampled)], [ids(&plain), ids(&plain)]);
        assert_eq!((plain.bins, fewer.bins), (15, 10));
        assert_eq!(
            (plain.bootstrap.resamples, resampled.bootstrap.resamples),
            (1000, 50)
        );
    }

    fn finder() -> Finder {
        Finder {
            miniature: true,
            ..Finder::from_env()
        }
    }

    #[test]
    fn trainings_are_shared_and_content_decides_the_name() {
        let plan = Plan::new(&options("table1", 2), Some(&finder())).unwrap();
        // LoRA 42 and 142 with two more members each; MixLoRA and UQ4CT in both placements and
        // normalized, UQ4CT-delta, BLoB, BLoB-cycles and LoRA-published for both seeds.
        assert_eq!(plan.trainings().len(), 6 + 2 * 10);
        assert_eq!(plan.rows.len(), 25);
        // The base model is scored once for both seeds.
        assert_eq!(plan.evaluations().len(), 1 + 2 * 24);
        let mut other = options("table1", 2);
        other.given.set("data.test_limit=9").unwrap();
        let other = Plan::new(&other, Some(&finder())).unwrap();
        assert_eq!(plan.trainings(), other.trainings());
        assert_ne!(plan.evaluations()[0].id, other.evaluations()[0].id);
        let mut longer = options("table1", 2);
        longer.given.set("train.epochs=3").unwrap();
        let longer = Plan::new(&longer, Some(&finder())).unwrap();
        assert_ne!(plan.trainings()[0].id, longer.trainings()[0].id);
    }

    #[test]
    fn rows_that_score_in_another_way_are_left_out_and_said_to_be() {
        let plan = Plan::new(&options("table1", 1), Some(&finder())).unwrap();
        assert!(plan.left_out[0].starts_with("UQ4CT-answer is about cloze"));
        let mut cloze = options("table1", 1);
        cloze.given.set("data.scoring=cloze").unwrap();
        let plan = Plan::new(&cloze, Some(&finder())).unwrap();
        assert_eq!((plan.rows.len(), plan.left_out.len()), (26, 0));
        let mut alone = options("table1", 1);
        alone.methods = vec!["uq4ct-answer".into()];
        let error = Plan::new(&alone, Some(&finder())).unwrap_err().to_string();
        assert!(error.contains("data.scoring"), "{error}");
    }

    #[test]
    fn a_record_with_a_stand_in_keeps_its_other_columns() {
        let mut recorded = options("fig3", 1);
        recorded.on = vec!["boolq".into(), "climatex".into()];
        let plan = Plan::new(&recorded, None).unwrap();
        let labels: Vec<&str> = plan.columns.iter().map(|c| c.label).collect();
        assert_eq!(labels, ["BoolQ", "ClimateX"]);
        recorded.on = vec!["boolq".into(), "climateqa".into()];
        let plan = Plan::new(&recorded, None).unwrap();
        assert_eq!(plan.columns[1].label, "ClimateQA");
    }

    #[test]
    fn a_temperature_of_first_answers_asks_nothing_anew() {
        let plan = Plan::new(&options("calibrated", 1), Some(&finder())).unwrap();
        let asked = |label: &str| {
            let row = plan.rows.iter().find(|r| r.row.label == label).unwrap();
            let evaluation = &row.evaluations[0];
            (evaluation.id.clone(), evaluation.at_temperature_one())
        };
        for (at, one) in [
            ("Calibrated", "MixLoRA"),
            ("LoRA (first answers)", "LoRA"),
            ("UQ4CT (first answers)", "UQ4CT"),
        ] {
            let (id, none) = asked(one);
            assert_eq!(none, None);
            assert_eq!(asked(at).1.unwrap().id, id, "{at}");
        }
    }

    #[test]
    fn ensembles_of_two_seeds_share_no_member() {
        let mut options = options("table1", 2);
        options.methods = vec!["Ensemble".into()];
        options.given.set("method.members=100").unwrap();
        assert!(Plan::new(&options, Some(&finder())).is_ok());
        options.given.set("method.members=101").unwrap();
        let error = Plan::new(&options, Some(&finder()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("method.members"), "{error}");
    }

    #[test]
    fn mixlora_is_uq4ct_at_beta_0() {
        let sweep = Plan::new(&options("table2", 1), Some(&finder())).unwrap();
        let beta = |i: usize| sweep.rows[i].evaluations[0].members[0].config.clone();
        assert_eq!(beta(0).objective.calibration_weight, 0.0);
        let shifts = Plan::new(&options("table1", 1), Some(&finder())).unwrap();
        let of = |label: &str| {
            let row = shifts.rows.iter().find(|r| r.row.label == label).unwrap();
            row.evaluations[0].members[0].id.clone()
        };
        assert_eq!(of("MixLoRA"), sweep.rows[0].evaluations[0].members[0].id);
        assert_eq!(of("UQ4CT"), sweep.rows[4].evaluations[0].members[0].id);
        assert_eq!(of("LoRA"), of("TFB"));
    }

    #[test]
    fn unknown_rows_and_columns_are_refused_with_the_known() {
        let mut wrong = options("table6", 1);
        wrong.methods = vec!["lora".into()];
        let error = Plan::new(&wrong, Some(&finder())).unwrap_err().to_string();
        assert!(error.contains("Known: spuq, uq4ct"), "{error}");
        let mut wrong = options("table6", 1);
        wrong.on = vec!["mmlu-law".into()];
        assert!(Plan::new(&wrong, Some(&finder())).is_err());
        let mut plain = options("table1", 1);
        plain.methods = vec!["lora".into(), "LA-centred".into()];
        let plain = Plan::new(&plain, Some(&finder())).unwrap();
        let labels: Vec<&str> = plain.rows.iter().map(|row| &*row.row.label).collect();
        assert_eq!(labels, ["LoRA", "LA-centred"]);
        let mut one = options("table6", 1);
        one.on = vec!["boolq".into()];
        assert_eq!(Plan::new(&one, Some(&finder())).unwrap().columns.len(), 1);
    }
}
