//! The recipe: load, attach, train, predict, score, report. No method is named here.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use burn::data::dataloader::DataLoader;
use burn::lr_scheduler::LrSchedulerConfig;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::sequential::SequentialLrSchedulerConfig;
use burn::optim::AdamWConfig;
use burn::prelude::*;
use burn::store::ModuleRecord;
use burn::tensor::FloatDType;
use burn::train::checkpoint::KeepLastNCheckpoints;
use burn::train::logger::InMemoryMetricLogger;
use burn::train::{ExecutionStrategy, Learner, SupervisedTraining};
use data::batch::BatchOptions;
use data::dataset::Dataset;
use data::loader::{EvaluationLoader, LoaderState, TrainLoader, chunk_ends};
use data::source::{Finder, Located, SourceKind, models};
use data::split::{SplitOptions, Splits, split, test_only};
use data::{DataError, EncodedQuestion, MultipleChoice, QuestionBatcher, Tokenizer};
use model::load::tiny::RandomWeights;
use model::load::{ModelFiles, Weights};
use model::{AdapterConfig, Llama, ModelConfig};

use crate::checkpoint::{self, CloseChunk};
use crate::config::{RateSchedule, RunConfig, TrainSection, WeightType};
use crate::dashboard::renderer::Renderer;
use crate::dashboard::state::Phase;
use crate::error::TrainError;
use crate::estimate::{RunEstimate, estimate};
use crate::method::lora::CrossEntropy;
use crate::method::{self, Method};
use crate::metric::live::{LossTerm, Tap, WholeSet};
use crate::metric::{Bootstrap, Metrics};
use crate::prediction::ScoredRow;
use crate::report::{self, Scored};
use crate::run_directory::{Environment, Provenance, RunDirectory, write_predictions};
use crate::step::Trainee;
use crate::telemetry::Telemetry;

/// Seed of the tiny model's random weights: it stands for pretrained weights, so it does not follow the run's seed.
const TINY_SEED: u64 = 20_241_009;

/// Where and how a run happens; the settings say what.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The tensor device, plain.
    pub device: Device,
    /// Where files are looked for.
    pub finder: Finder,
    /// The run's directory.
    pub run: PathBuf,
    /// Go on with what is there.
    pub resume: bool,
    /// On what the run runs, for its record.
    pub environment: Environment,
    /// Where its numbers go.
    pub telemetry: Telemetry,
    /// How a stop is asked for.
    pub state: Arc<LoaderState>,
}

/// Everything a run needs before its first step, but for the weights.
pub struct Prepared {
    /// The decoder's shape.
    pub model: ModelConfig,
    weights: Box<dyn Weights>,
    model_files: Vec<Located>,
    /// The questions as text.
    pub splits: Splits,
    /// The training questions.
    pub train: Arc<Vec<EncodedQuestion>>,
    /// The held-out questions.
    pub held_out: Vec<EncodedQuestion>,
    /// The test questions.
    pub test: Vec<EncodedQuestion>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("model", &self.model)
            .field("split", &self.splits.account)
            .finish_non_exhaustive()
    }
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Trained, scored, reported.
    Finished(Box<Scored>),
    /// Stopped on request after this many optimizer steps; `--resume` goes on.
    Stopped(usize),
}

/// Runs the whole recipe on what [`prepare`] found.
///
/// # Errors
/// Anything that [`TrainError`] names. What was written before stays.
pub fn fine_tune(
    config: &RunConfig,
    setup: &Setup,
    mut prepared: Prepared,
) -> Result<Outcome, TrainError> {
    let method = method::build(config)?;
    let run = RunDirectory::create(&setup.run, config, setup.resume)?;
    setup.telemetry.say("Loading the weights ..");
    let base = prepared.load(config, &setup.device)?;
    let tuned = base.attach(&method.adapter(), config.train.seed)?;
    if setup.resume {
        prepared.same_files(&run)?;
    }
    record(&run, setup, &prepared, &tuned)?;
    let stopped = || {
        Ok(Outcome::Stopped(
            setup.state.steps_done.load(Ordering::SeqCst),
        ))
    };
    let tuned = match method.adapter() {
        AdapterConfig::None => tuned,
        _ => match train(config, setup, &run, &prepared, tuned, method.clone())? {
            Some(tuned) => tuned,
            None => return stopped(),
        },
    };
    let scored = score(config, setup, &run, &prepared, &base, &tuned, &*method)?;
    match scored {
        Some(scored) => Ok(Outcome::Finished(Box::new(scored))),
        None => stopped(),
    }
}

/// The model of a finished run: base weights and trained adapter.
///
/// # Errors
/// A run that has not finished, or an adapter that does not fit its settings.
pub fn load_tuned(
    run: &RunDirectory,
    config: &RunConfig,
    prepared: &mut Prepared,
    device: &Device,
) -> Result<Llama, TrainError> {
    prepared.same_model(run)?;
    let adapter = method::build(config)?.adapter();
    let fresh = prepared
        .load(config, device)?
        .attach(&adapter, config.train.seed)?;
    if adapter == AdapterConfig::None {
        return Ok(fresh);
    }
    let path = run.adapter();
    if !path.is_file() {
        let reason = "is missing: the run has not finished; continue it with --resume";
        return Err(TrainError::file(path, reason));
    }
    let record = ModuleRecord::load(&path).map_err(|e| TrainError::file(&path, e))?;
    fresh
        .try_load_record(record)
        .map_err(|e| TrainError::file(&path, e))
}

/// Finds model and data, divides and encodes the questions.
///
/// # Errors
/// Files that are nowhere or damaged, labels that are not one token, empty splits.
pub fn prepare(config: &RunConfig, finder: &Finder) -> Result<Prepared, TrainError> {
    prepare_with(config, finder, split)
}

/// The same with the test questions alone.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_test(config: &RunConfig, finder: &Finder) -> Result<Prepared, TrainError> {
    prepare_with(config, finder, test_only)
}

type Divide = fn(&dyn Dataset, &Finder, &SplitOptions) -> Result<Splits, DataError>;

fn prepare_with(
    config: &RunConfig,
    finder: &Finder,
    divide: Divide,
) -> Result<Prepared, TrainError> {
    let ((model, weights), tokenizer, model_files) = open_model(config, finder)?;
    let dataset = data::dataset::find(&config.data.dataset)?;
    let splits = divide(
        dataset,
        finder,
        &SplitOptions {
            held_out_fraction: config.data.held_out_fraction,
            seed: config.data.split_seed,
            train_limit: config.data.train_limit,
            held_out_limit: config.data.held_out_limit,
            test_limit: config.data.test_limit,
        },
    )?;
    // A loss over the sequence appends the answer's token.
    let appended = usize::from(config.objective.cross_entropy == CrossEntropy::Sequence);
    let positions = model.max_position_embeddings.saturating_sub(appended);
    let room = config.data.max_tokens.min(positions);
    let encode = |questions: &[MultipleChoice]| {
        tokenizer.encode_questions(questions, config.data.template, dataset.labels(), room)
    };
    let (train, held_out, test) = (
        encode(&splits.train)?,
        encode(&splits.held_out)?,
        encode(&splits.test)?,
    );
    for question in train.iter().chain(&held_out).chain(&test) {
        let mut ids = question.prompt.iter().chain(&question.labels);
        if let Some(id) = ids.find(|id| **id as usize >= model.vocab_size) {
            return Err(TrainError::config(
                "tokenizer",
                format!(
                    "row {}: token {id} is past the model's vocabulary of {}: the tokenizer belongs to another model",
                    question.id, model.vocab_size
                ),
            ));
        }
    }
    Ok(Prepared {
        train: Arc::new(train),
        held_out,
        test,
        splits,
        model,
        weights,
        model_files,
    })
}

type OpenedModel = ((ModelConfig, Box<dyn Weights>), Tokenizer, Vec<Located>);

fn open_model(config: &RunConfig, finder: &Finder) -> Result<OpenedModel, TrainError> {
    if config.model.name == "tiny" {
        let tokenizer = Tokenizer::tiny();
        let shape = model::load::tiny::config(tokenizer.vocabulary());
        let weights = RandomWeights::new(shape.clone(), TINY_SEED);
        let files = vec![Located {
            path: "tiny".into(),
            source: SourceKind::Bundled,
            origin: "random weights, made up for tests".into(),
            sha256: String::new(),
        }];
        return Ok(((shape, Box::new(weights)), tokenizer, files));
    }
    let located = models::find(&config.model.name, &config.model.revision, finder)?;
    let ModelFiles {
        config: shape,
        weights,
        tokenizer,
    } = model::load::open(&located.path)?;
    Ok(((shape, weights), Tokenizer::new(tokenizer), located.files))
}

impl Prepared {
    /// Loads the frozen weights onto a device.
    ///
    /// # Errors
    /// A missing or misshapen weight.
    pub fn load(&mut self, config: &RunConfig, device: &Device) -> Result<Llama, TrainError> {
        let longest = [&*self.train, &self.held_out, &self.test]
            .into_iter()
            .flatten()
            .map(|q| q.prompt.len() + 1)
            .max()
            .unwrap_or(1);
        let dtype = match config.model.dtype {
            WeightType::F32 => FloatDType::F32,
            WeightType::Bf16 => FloatDType::BF16,
        };
        Ok(Llama::load(
            &self.model,
            &mut *self.weights,
            longest,
            dtype,
            device,
        )?)
    }

    /// Where each file of the model and the data came from.
    pub fn origins(&self) -> Vec<&Located> {
        self.model_files
            .iter()
            .chain(&self.splits.account.files)
            .collect()
    }

    /// Refuses a run that was trained on another base model: its adapter would not fit.
    ///
    /// # Errors
    /// Digests that differ from the run's `data.json`.
    pub fn same_model(&self, run: &RunDirectory) -> Result<(), TrainError> {
        let known: Provenance = run.read_json("data.json")?;
        same("model", run, &known.model, &self.model_files)
    }

    /// Refuses to go on with a run on other files than it began with.
    ///
    /// # Errors
    /// Digests that differ from the run's `data.json`.
    fn same_files(&self, run: &RunDirectory) -> Result<(), TrainError> {
        // Stopped before it was written: nothing was trained yet.
        let Ok(known) = run.read_json::<Provenance>("data.json") else {
            return Ok(());
        };
        self.same_model(run)?;
        same("data", run, &known.split.files, &self.splits.account.files)
    }

    /// The size of the run.
    ///
    /// # Errors
    /// An unknown method.
    pub fn estimate(&self, config: &RunConfig, cores: usize) -> Result<RunEstimate, TrainError> {
        let adapter = method::build(config)?.adapter();
        Ok(estimate(
            &self.model,
            &adapter,
            adapter.parameters(&self.model),
            &config.train.schedule(),
            &self.train,
            &[&self.held_out, &self.test],
            match config.model.dtype {
                WeightType::F32 => 4,
                WeightType::Bf16 => 2,
            },
            cores,
        ))
    }
}

fn same(
    what: &str,
    run: &RunDirectory,
    known: &[Located],
    found: &[Located],
) -> Result<(), TrainError> {
    let digests = |files: &[Located]| files.iter().map(|f| f.sha256.clone()).collect::<Vec<_>>();
    if digests(known) == digests(found) {
        return Ok(());
    }
    let origins = |files: &[Located]| {
        let names: Vec<&str> = files.iter().map(|f| f.origin.as_str()).collect();
        names.join(", ")
    };
    Err(TrainError::file(
        run.root(),
        format!(
            "the run's {what} came from {}, but now {} would serve: give the same --data-dir or --model, or start another run",
            origins(known),
            origins(found)
        ),
    ))
}

/// Writes what the run is made of, before its first step.
fn record(
    run: &RunDirectory,
    setup: &Setup,
    prepared: &Prepared,
    tuned: &Llama,
) -> Result<(), TrainError> {
    let shortened = |rows: &[EncodedQuestion]| rows.iter().filter(|q| q.shortened).count();
    run.write_json("environment.json", &setup.environment)?;
    run.write_json(
        "data.json",
        &Provenance {
            model: prepared.model_files.clone(),
            split: prepared.splits.account.clone(),
            shortened: [
                shortened(&prepared.train),
                shortened(&prepared.held_out),
                shortened(&prepared.test),
            ],
            base_parameters: prepared.model.base_parameters(),
            trainable_parameters: tuned.trainable_parameters(),
        },
    )
}

/// Trains through Burn's Learner, from the newest checkpoint if the run is resumed. `None` if a stop was asked for.
fn train(
    config: &RunConfig,
    setup: &Setup,
    run: &RunDirectory,
    prepared: &Prepared,
    tuned: Llama,
    method: Arc<dyn Method>,
) -> Result<Option<Llama>, TrainError> {
    let device = setup.device.clone().autodiff();
    let schedule = config.train.schedule();
    let rows = prepared.train.len();
    let total = schedule.total_steps(rows);
    let from = setup
        .resume
        .then(|| checkpoint::latest(run.root()))
        .flatten();
    let done = from.map_or(0, |c| c.steps);
    setup.state.steps_done.store(done, Ordering::SeqCst);
    setup.telemetry.start(run.metrics_log(done)?);
    {
        let mut state = setup.telemetry.state();
        state.begin_training(done, total, schedule.steps_per_epoch(rows));
    }
    let trainee = Trainee::new(tuned, method, config.train.gradient_clip);
    let chunks = chunk_ends(&schedule, rows, done).len();
    if chunks == 0 {
        let from = from.ok_or_else(|| TrainError::Training("no step to train".into()))?;
        let record = checkpoint::model_record(run.root(), from)?;
        return finish(run, trainee.load_record(record).valid().llama);
    }
    let loader = TrainLoader::new(
        prepared.train.clone(),
        QuestionBatcher {
            options: BatchOptions {
                sequence_targets: config.objective.cross_entropy == CrossEntropy::Sequence,
                pad_left: false,
            },
        },
        schedule,
        setup.state.clone(),
        &device,
    );
    let monitor = &prepared.held_out[..prepared.held_out.len().min(config.data.monitor_limit)];
    let valid = EvaluationLoader::new(
        monitor,
        config.evaluation.batch_tokens,
        setup.state.clone(),
        &setup.device,
    );
    let optimizer = AdamWConfig::new()
        .with_beta_1(0.9)
        .with_beta_2(0.999)
        .with_epsilon(1e-8)
        .with_weight_decay(config.train.weight_decay as f32);
    let learner = Learner::new(
        trainee.train(),
        optimizer.init(),
        learning_rate(&config.train, total)?,
    );
    let first_chunk = from.map_or(0, |c| c.chunk);
    let mut training = SupervisedTraining::new(run.root(), Arc::new(loader), Arc::new(valid))
        .num_epochs(first_chunk + chunks)
        // The loader says where an optimizer step ends; see `data::loader`.
        .grads_accumulation(usize::MAX)
        .with_training_strategy(ExecutionStrategy::single(device).into())
        .with_application_logger(None)
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_default_checkpointers()
        .with_checkpointing_strategy(KeepLastNCheckpoints::new(2))
        .early_stopping(CloseChunk {
            run: run.root().to_path_buf(),
            state: setup.state.clone(),
            telemetry: setup.telemetry.clone(),
        })
        .renderer(Box::new(Renderer::new(setup.telemetry.clone())));
    training = register_metrics(training, setup);
    if let Some(from) = from {
        training = training.checkpoint(from.chunk);
    }
    let result = training.launch(learner);
    if let Some(error) = result.error {
        return Err(TrainError::Training(error.to_string()));
    }
    if let Some(reason) = setup.telemetry.failure() {
        return Err(TrainError::Training(reason));
    }
    let steps = setup.state.steps_done.load(Ordering::SeqCst);
    match steps < total {
        true => Ok(None),
        false => finish(run, result.model.llama),
    }
}

fn register_metrics(
    training: SupervisedTraining<Trainee>,
    setup: &Setup,
) -> SupervisedTraining<Trainee> {
    let (on_train, on_held_out) = (setup.telemetry.clone(), setup.telemetry.clone());
    let stop = setup.state.clone();
    training
        .metric_train(Tap::new(Arc::new(move |facts| {
            on_train.on_train(facts);
            if on_train.failure().is_some() {
                stop.stop.store(true, Ordering::SeqCst);
            }
            if !facts.loss().is_finite() {
                on_train.fail(format!(
                    "the loss is no number at step {}: lower train.learning_rate or set train.gradient_clip",
                    facts.step
                ));
                stop.stop.store(true, Ordering::SeqCst);
            }
        })))
        .metric_valid(Tap::new(Arc::new(move |facts| {
            on_held_out.on_held_out(facts)
        })))
        .metric_train_numeric(LossTerm::total())
        .metric_train_numeric(LossTerm::of("cross_entropy"))
        .metric_train_numeric(LossTerm::of("load_balancing_loss"))
        .metric_train_numeric(LossTerm::of("calibration_loss"))
        .metric_train_numeric(WholeSet::accuracy())
        .metric_train_numeric(WholeSet::ece())
        .metric_train_numeric(WholeSet::flu())
        .metric_valid_numeric(LossTerm::total())
        .metric_valid_numeric(WholeSet::accuracy())
        .metric_valid_numeric(WholeSet::ece())
        .metric_valid_numeric(WholeSet::flu())
}

fn finish(run: &RunDirectory, llama: Llama) -> Result<Option<Llama>, TrainError> {
    let path = run.adapter();
    let parent = path.parent().unwrap_or(run.root());
    std::fs::create_dir_all(parent).map_err(|e| TrainError::file(parent, e))?;
    llama
        .clone()
        .into_record()
        .save(&path)
        .map_err(|e| TrainError::file(&path, e))?;
    Ok(Some(llama))
}

/// The learning rate by optimizer step: a linear warm-up, then constant, linear or cosine.
fn learning_rate(train: &TrainSection, total: usize) -> Result<ModuleLrScheduler, TrainError> {
    let peak = train.learning_rate;
    let warmup = train.warmup_steps.min(total.saturating_sub(1));
    let rest = total - warmup;
    let body: LrSchedulerConfig = match train.schedule {
        RateSchedule::Constant => {
            LrSchedulerConfig::Linear(LinearLrSchedulerConfig::new(peak, peak, rest))
        }
        RateSchedule::Linear => {
            LrSchedulerConfig::Linear(LinearLrSchedulerConfig::new(peak, 0.0, rest))
        }
        RateSchedule::Cosine => {
            LrSchedulerConfig::Cosine(CosineAnnealingLrSchedulerConfig::new(peak, rest))
        }
    };
    let (schedulers, milestones) = match warmup {
        0 => (vec![body], vec![]),
        _ => {
            let first = peak / (warmup + 1) as f64;
            let rise = LinearLrSchedulerConfig::new(first, peak, warmup);
            (vec![LrSchedulerConfig::Linear(rise), body], vec![warmup])
        }
    };
    SequentialLrSchedulerConfig::new(schedulers, milestones)
        .init()
        .map_err(|reason| TrainError::config("train.learning_rate", reason))
}

/// Scores held-out and test questions with the base model and the tuned one, and writes everything down. `None` if a stop was
/// asked for.
fn score(
    config: &RunConfig,
    setup: &Setup,
    run: &RunDirectory,
    prepared: &Prepared,
    base: &Llama,
    tuned: &Llama,
    method: &dyn Method,
) -> Result<Option<Scored>, TrainError> {
    let zero_shot = method::base::Base;
    let tuned_members = [tuned.clone()];
    let base_members = [base.clone()];
    let mut sets: Vec<Vec<ScoredRow>> = Vec::new();
    type Job<'a> = (&'a str, &'a dyn Method, &'a [Llama], &'a [EncodedQuestion]);
    let jobs: [Job; 4] = [
        (
            "base model on held-out questions",
            &zero_shot,
            &base_members,
            &prepared.held_out,
        ),
        (
            "base model on test questions",
            &zero_shot,
            &base_members,
            &prepared.test,
        ),
        (
            "tuned model on held-out questions",
            method,
            &tuned_members,
            &prepared.held_out,
        ),
        (
            "tuned model on test questions",
            method,
            &tuned_members,
            &prepared.test,
        ),
    ];
    for (name, method, members, questions) in jobs {
        let Some(rows) = evaluate(config, setup, name, method, members, questions)? else {
            return Ok(None);
        };
        sets.push(rows);
    }
    let [base_held_out, base_test, held_out, test]: [Vec<ScoredRow>; 4] =
        sets.try_into().expect("four jobs, four sets");
    setup.telemetry.phase(Phase::Reporting);
    let bootstrap = Bootstrap {
        resamples: config.evaluation.bootstrap,
        seed: config.data.split_seed,
    };
    let figures = |rows: &[ScoredRow]| Metrics::of(rows, config.evaluation.bins, bootstrap);
    let scored = Scored {
        base: figures(&base_test),
        tuned: figures(&test),
        base_held_out: figures(&base_held_out),
        tuned_held_out: figures(&held_out),
        base_rows: base_test,
        tuned_rows: test,
    };
    let folder = run.evaluation(&config.data.dataset);
    for (name, rows) in [
        ("predictions.jsonl", &scored.tuned_rows),
        ("base-predictions.jsonl", &scored.base_rows),
        ("held-out-predictions.jsonl", &held_out),
        ("held-out-base-predictions.jsonl", &base_held_out),
    ] {
        write_predictions(&folder.join(name), rows)?;
    }
    run.write_json(
        &format!("evaluation/{}/metrics.json", config.data.dataset),
        &scored.figures(),
    )?;
    report::write(run, config, &scored, &prepared.splits.test)?;
    setup.telemetry.phase(Phase::Done);
    Ok(Some(scored))
}

/// Scores questions, in their own order. `None` if a stop was asked for.
///
/// # Errors
/// A question that cannot be served.
pub fn evaluate(
    config: &RunConfig,
    setup: &Setup,
    name: &str,
    method: &dyn Method,
    members: &[Llama],
    questions: &[EncodedQuestion],
) -> Result<Option<Vec<ScoredRow>>, TrainError> {
    let loader = EvaluationLoader::new(
        questions,
        config.evaluation.batch_tokens,
        setup.state.clone(),
        &setup.device,
    );
    let mut rows = std::collections::HashMap::new();
    let (mut tokens, began) = (0, std::time::Instant::now());
    for batch in loader.iter() {
        let batch = batch.map_err(|e| TrainError::Training(e.to_string()))?;
        tokens += batch.real_tokens;
        let prediction = method.predict(members, &batch);
        for row in prediction.rows(&batch) {
            rows.insert(row.id.clone(), row);
        }
        let mut state = setup.telemetry.state();
        state.phase = Phase::Evaluating {
            name: name.into(),
            done: rows.len(),
            total: questions.len(),
        };
        state.tokens_per_second = tokens as f64 / began.elapsed().as_secs_f64();
    }
    if setup.state.stop.load(Ordering::SeqCst) {
        return Ok(None);
    }
    Ok(Some(
        questions
            .iter()
            .filter_map(|q| rows.remove(&q.id))
            .collect(),
    ))
}
