//! One training through Burn's Learner, resumable at any optimizer step.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use burn::prelude::*;
use burn::store::ModuleRecord;
use burn::train::checkpoint::KeepLastNCheckpoints;
use burn::train::logger::InMemoryMetricLogger;
use burn::train::{ExecutionStrategy, Learner, MultiDeviceOptim, SupervisedTraining};
use data::loader::{EvaluationLoader, TrainLoader};
use data::schedule::{Schedule, chunk_ends};
use data::{BatchOptions, EncodedQuestion, QuestionBatcher};
use model::exchange::Adapter;
use model::{AdapterConfig, Llama};

use crate::alarm::Watch;
use crate::checkpoint::{self, Checkpoint, CloseChunk, Closing};
use crate::config::RunConfig;
use crate::context::Setup;
use crate::dashboard::history::earlier;
use crate::error::TrainError;
use crate::loss::cross_entropy::CrossEntropy;
use crate::metric::live::{LossTerm, Tap, WholeSet};
use crate::optimizer::{OnePassAdamW, learning_rate, learning_rates};
use crate::passes;
use crate::prequential::{self, PrequentialTemperature};
use crate::registry;
use crate::renderer::Renderer;
use crate::run_directory::{FIRST_ANSWERS, METRICS, RunDirectory};
use crate::step::Trainee;
use crate::telemetry::Recording;

/// What is trained on, and watched meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct TrainingQuestions<'a> {
    /// What the adapter learns from.
    pub train: &'a Arc<Vec<EncodedQuestion>>,
    /// Scored after each chunk.
    pub held_out: &'a [EncodedQuestion],
}

/// Where an adapter begins.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// The frozen model.
    pub base: &'a Llama,
    /// The adapter to begin with; absent: drawn from the seed.
    pub adapter: Option<&'a StartingAdapter>,
}

/// An adapter that a training begins with.
#[derive(Debug)]
pub struct StartingAdapter {
    /// Where it lies.
    pub directory: PathBuf,
    /// Its parameters.
    pub adapter: Adapter,
    /// The temperature that the first answers of its own training called for. A training without
    /// a step passes it on.
    pub temperature: Option<PrequentialTemperature>,
}

/// The adapters of a training: the last one, and before it those kept along the way, oldest first.
#[derive(Debug)]
pub struct Trained {
    /// The last adapter's model.
    pub last: Llama,
    /// The kept adapters' models; the last of them is `last`.
    pub snapshots: Vec<Llama>,
}

/// Trains `config`'s method in `run`, from the newest checkpoint if there is one; a training that
/// has finished is only loaded.
///
/// # Errors
/// Anything that [`TrainError`] names, a stop on request among it. What was written before stays.
pub fn train(
    config: &RunConfig,
    setup: &Setup,
    run: &RunDirectory,
    questions: TrainingQuestions,
    start: Start,
) -> Result<Trained, TrainError> {
    if !run.adapter().is_file() {
        let learned = learn(config, setup, run, questions, start)?;
        keep_temperature(run, start)?;
        save(run, learned)?;
    }
    load(config, run, start.base, questions.train.len())
}

/// Writes the temperature that the training's first answers call for; without a first answer, that
/// of the adapter which it began with.
fn keep_temperature(run: &RunDirectory, start: Start) -> Result<(), TrainError> {
    let path = run.first_answers();
    let answers = match path.is_file() {
        true => prequential::read(&path)?,
        false => Vec::new(),
    };
    let found = match answers.is_empty() {
        false => Some(prequential::temperature(&answers)),
        true => start.adapter.and_then(|adapter| adapter.temperature),
    };
    found.map_or(Ok(()), |found| run.write_temperature(found))
}

/// The adapters of a finished training.
///
/// # Errors
/// An adapter that is missing or does not fit the settings.
pub fn load(
    config: &RunConfig,
    run: &RunDirectory,
    base: &Llama,
    questions: usize,
) -> Result<Trained, TrainError> {
    let adapter = registry::build(config)?.adapter();
    let fresh = base.attach_blank(&adapter)?;
    if adapter == AdapterConfig::None {
        return Ok(Trained {
            last: fresh,
            snapshots: Vec::new(),
        });
    }
    let path = run.adapter();
    let record_of_last = record(&path)?;
    run.check_adapter()?;
    let last = fresh.clone().try_load_record(record_of_last);
    let last = last.map_err(|e| unfit(&path, e))?;
    model::exchange::check_numbers(&path, &last.adapter_tensors())?;
    let steps = config.train.schedule().snapshot_steps(questions);
    let mut snapshots = Vec::new();
    for step in steps.iter().rev().skip(1).rev() {
        // Kept from a checkpoint, so the trainee's record.
        let name = checkpoint::snapshot(*step);
        let path = run.root().join(&name);
        let method = registry::build(config)?;
        let trainee = Trainee::new(fresh.clone(), method, &config.train, questions);
        let found = record(&path)?;
        run.digests().check(&name)?;
        let trainee = trainee.try_load_record(found);
        snapshots.push(trainee.map_err(|e| unfit(&path, e))?.llama);
    }
    if !steps.is_empty() {
        snapshots.push(last.clone());
    }
    Ok(Trained { last, snapshots })
}

/// The record of a finished training's adapter.
fn record(path: &Path) -> Result<ModuleRecord, TrainError> {
    if !path.is_file() {
        let reason = "is missing: the run has not finished; continue it with --resume";
        return Err(TrainError::file(path, reason));
    }
    ModuleRecord::load(path).map_err(|e| unfit(path, e))
}

fn unfit(path: &Path, error: impl ToString) -> TrainError {
    TrainError::file(path, short(error, "does not fit the run's settings"))
}

/// Burn's message names every tensor.
fn short(error: impl ToString, what: &str) -> String {
    let text: String = error.to_string().chars().take(200).collect();
    format!("{what}: {text}")
}

fn save(run: &RunDirectory, llama: Llama) -> Result<(), TrainError> {
    let record = llama.into_record();
    run.keep_adapter(|path| record.save(path).map_err(|e| TrainError::file(path, e)))
}

/// The model after all steps, from the newest checkpoint on.
fn learn(
    config: &RunConfig,
    setup: &Setup,
    run: &RunDirectory,
    questions: TrainingQuestions,
    start: Start,
) -> Result<Llama, TrainError> {
    let trainee = set_up(config, start, questions.train.len())?;
    let fits = |record: ModuleRecord| {
        let fitted = trainee.clone().try_load_record(record);
        fitted
            .map(|_| ())
            .map_err(|e| short(e, "does not fit the run's settings"))
    };
    let (from, damaged) = checkpoint::newest(run.root(), fits);
    for reason in damaged {
        let line = format!("A checkpoint cannot be used and is skipped: {reason}");
        setup.telemetry.say(line);
    }
    checkpoint::forget_newer(run.root(), from.as_ref());
    let walk = Walk {
        schedule: config.train.schedule(),
        questions: questions.train.len(),
        from,
    };
    if walk.total() == 0 {
        return Ok(trainee.llama);
    }
    let monitor = &questions.held_out[..questions.held_out.len().min(config.data.monitor_limit)];
    begin(config, setup, run, &walk, monitor.len())?;
    if walk.chunks() == 0 {
        return last_checkpoint(trainee, run, &walk);
    }
    let learner = Learner::new(
        trainee.train(),
        OnePassAdamW::new(config.train.weight_decay).into(),
        learning_rate(&config.train, walk.total())?,
    );
    let result = fit(config, setup, run, &walk, (questions.train, monitor)).launch(learner);
    setup.state.end();
    if let Some(error) = result.error {
        return Err(TrainError::Training(error.to_string()));
    }
    check_end(setup, run, &walk)?;
    Ok(result.model.llama)
}

/// A training's walk through its questions, and where it begins.
struct Walk {
    schedule: Schedule,
    /// Training questions.
    questions: usize,
    /// The newest checkpoint.
    from: Option<Checkpoint>,
}

impl Walk {
    /// Optimizer steps of the whole training.
    fn total(&self) -> usize {
        self.schedule.total_steps(self.questions)
    }

    /// Optimizer steps that the newest checkpoint holds.
    fn done(&self) -> usize {
        self.from.as_ref().map_or(0, |checkpoint| checkpoint.steps)
    }

    /// The digest that a log had at the newest checkpoint, where it was kept.
    fn log(&self, name: &str) -> Option<&str> {
        let logs = &self.from.as_ref()?.logs;
        logs.get(name).map(String::as_str)
    }

    /// Chunks that are left, each an epoch of Burn's Learner.
    fn chunks(&self) -> usize {
        chunk_ends(&self.schedule, self.questions, self.done()).len()
    }
}

/// The base model with an adapter at its beginning, and the method that trains it.
pub(crate) fn set_up(
    config: &RunConfig,
    start: Start,
    questions: usize,
) -> Result<Trainee, TrainError> {
    let method = registry::build(config)?;
    let tuned = start.base.attach(&method.adapter(), config.train.seed)?;
    let tuned = match start.adapter {
        Some(start) => tuned
            .with_adapter_tensors(&start.adapter.tensors)
            .map_err(|error| TrainError::file(&start.directory, error))?,
        None => tuned,
    };
    Ok(Trainee::new(tuned, method, &config.train, questions))
}

/// Tells loader, log and dashboard where the training begins; `held_out` questions are watched.
fn begin(
    config: &RunConfig,
    setup: &Setup,
    run: &RunDirectory,
    walk: &Walk,
    held_out: usize,
) -> Result<(), TrainError> {
    let done = walk.done();
    if done == 0 && !run.metrics()?.is_empty() {
        setup
            .telemetry
            .say("No checkpoint to go on from: training begins again at step 0.");
    }
    let (warmup, steps) = (config.train.warmup_steps, walk.total());
    if warmup >= steps && done == 0 {
        setup.telemetry.say(format!(
            "train.warmup_steps is {warmup}, and the training has {steps} step(s): the rate rises to the end."
        ));
    }
    setup.state.begin(done);
    let log = run.metrics_log(done, walk.log(METRICS))?;
    let lines = run.metrics()?;
    let per_epoch = walk.schedule.steps_per_epoch(walk.questions);
    let adapter = registry::build(config)?.adapter();
    let routers = adapter.mixture().map(|mix| (mix.top_k, mix.num_experts));
    setup.telemetry.start(Recording {
        log,
        first_answers: run.first_answers_log(done, walk.log(FIRST_ANSWERS))?,
        alarms: run.alarm_log(done)?,
        watch: Watch::new(per_epoch, walk.total(), routers, &lines),
        on_nan: config.train.on_nan,
        done,
        before: lines.last().map_or(0.0, |line| line.seconds),
        held_out,
        rates: learning_rates(&config.train, walk.total())?,
    });
    let mut state = setup.telemetry.state();
    state.begin_training(done, walk.total(), per_epoch);
    state.recall(earlier(&lines));
    Ok(())
}

/// The model of a training whose steps are all done and whose adapter was not yet saved.
fn last_checkpoint(trainee: Trainee, run: &RunDirectory, walk: &Walk) -> Result<Llama, TrainError> {
    let from = walk
        .from
        .as_ref()
        .ok_or_else(|| TrainError::Training("no step to train".into()))?;
    let record = checkpoint::model_record(run.root(), from.chunk)?;
    Ok(trainee.load_record(record).valid().llama)
}

/// The Learner's training: an epoch is a chunk of optimizer steps, after which the held-out
/// questions are scored and a checkpoint is written.
fn fit(
    config: &RunConfig,
    setup: &Setup,
    run: &RunDirectory,
    walk: &Walk,
    (train, held_out): (&Arc<Vec<EncodedQuestion>>, &[EncodedQuestion]),
) -> SupervisedTraining<Trainee> {
    let batcher = QuestionBatcher {
        options: BatchOptions {
            sequence_targets: config.objective.cross_entropy == CrossEntropy::Sequence,
            pad_left: false,
            padding: config.train.padding,
        },
    };
    let loader = TrainLoader::new(
        train.clone(),
        batcher,
        walk.schedule,
        setup.state.clone(),
        &setup.device.clone().autodiff(),
    )
    .shared_by(1 + setup.others.len());
    let valid = EvaluationLoader::with_batcher(
        held_out,
        passes::asked(config.evaluation.batch_tokens, &setup.device, 0),
        batcher,
        setup.state.clone(),
        &setup.device,
    );
    let from = walk.from.as_ref().map(|checkpoint| checkpoint.chunk);
    let closing = Closing::new(run.root());
    let [model, optimizer, scheduler] = checkpoint::parts(&closing);
    let training = SupervisedTraining::new(run.root(), Arc::new(loader), Arc::new(valid))
        .num_epochs(from.unwrap_or(0) + walk.chunks())
        // The loader says where an optimizer step ends; see `data::loader`.
        .grads_accumulation(usize::MAX)
        .with_training_strategy(strategy(setup).into())
        .with_application_logger(None)
        .with_metric_logger(InMemoryMetricLogger::default())
        .with_custom_checkpointers(model, optimizer, scheduler)
        .with_checkpointing_strategy(KeepLastNCheckpoints::new(2))
        .early_stopping(CloseChunk {
            closing,
            state: setup.state.clone(),
            telemetry: setup.telemetry.clone(),
            snapshots: walk.schedule.snapshot_steps(walk.questions),
        })
        .renderer(Box::new(Renderer::new(setup.telemetry.clone())));
    let training = register_metrics(training, setup);
    match from {
        Some(chunk) => training.checkpoint(chunk),
        None => training,
    }
}

/// Refuses a training that has failed, or stopped before its last step.
fn check_end(setup: &Setup, run: &RunDirectory, walk: &Walk) -> Result<(), TrainError> {
    if let Some(reason) = setup.telemetry.failure() {
        let (kept, _) = checkpoint::newest(run.root(), |_| Ok(()));
        let kept = match kept {
            Some(kept) => format!("the checkpoint of step {} is kept", kept.steps),
            None => "no checkpoint was written before".into(),
        };
        return Err(TrainError::Training(format!("{reason} ({kept})")));
    }
    match setup.state.steps_done.load(Ordering::SeqCst) < walk.total() {
        true => Err(TrainError::Stopped),
        false => Ok(()),
    }
}

/// Every number of a step goes to the telemetry, and the Learner's own metrics beside it.
fn register_metrics(
    training: SupervisedTraining<Trainee>,
    setup: &Setup,
) -> SupervisedTraining<Trainee> {
    let (on_train, on_held_out) = (setup.telemetry.clone(), setup.telemetry.clone());
    let state = setup.state.clone();
    training
        .metric_train(Tap::new(Arc::new(move |facts| {
            on_train.on_train(facts);
            if on_train.failure().is_some() {
                state.fail();
            }
        })))
        .metric_valid(Tap::new(Arc::new(move |facts| {
            on_held_out.on_held_out(facts)
        })))
        .metric_train_numeric(LossTerm::total())
        .metric_train_numeric(LossTerm::of("cross_entropy"))
        .metric_train_numeric(LossTerm::of("choice_loss"))
        .metric_train_numeric(LossTerm::of("mmce"))
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

/// One device, or several that share every optimizer step; the first one updates the adapter.
fn strategy(setup: &Setup) -> ExecutionStrategy {
    let all = std::iter::once(&setup.device).chain(&setup.others);
    let mut devices: Vec<Device> = all.map(|device| device.clone().autodiff()).collect();
    match devices.len() {
        1 => ExecutionStrategy::single(devices.remove(0)),
        _ => ExecutionStrategy::multi(devices, MultiDeviceOptim::OptimMainDevice),
    }
}
