//! A finished run: loaded, fitted, asked. Every verb that asks a run comes here.
//!
//! | stage | holds | can |
//! |---|---|---|
//! | [`LoadedRun`] | the base model, the members' adapters | score the base model; be exported |
//! | [`FittedRun`] | the method, ready to answer | score sets of questions; answer new ones |
//!
//! [`LoadedRun::fit`] leads from the one to the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use data::{EncodedQuestion, MultipleChoice};
use model::{AdapterConfig, Llama};

use crate::config::RunConfig;
use crate::context::Setup;
use crate::dashboard::state::Phase;
use crate::error::TrainError;
use crate::evaluation::{Evaluated, evaluate};
use crate::method::base::Base;
use crate::method::{FitContext, Method, Predictor, Sample};
use crate::passes;
use crate::prediction::ScoredRow;
use crate::prepare::{Prepared, prepare_finished};
use crate::prequential::PrequentialTemperature;
use crate::provenance::{same_model, same_task, unchanged};
use crate::registry;
use crate::run_directory::{HELD_OUT, RunDirectory};
use crate::training::{self, Trained};

/// A member of a run: the training whose adapter is asked.
#[derive(Debug, Clone)]
pub struct Member {
    /// The training's settings.
    pub config: RunConfig,
    /// The training's directory, in which the adapter lies.
    pub directory: RunDirectory,
    /// Number of questions it was trained on.
    pub questions: usize,
}

/// Settings and directory of each training that a run's method needs: the run's own directory, or
/// several below it.
///
/// # Errors
/// An unknown method.
pub fn trainings(
    config: &RunConfig,
    run: &RunDirectory,
) -> Result<Vec<(RunConfig, RunDirectory)>, TrainError> {
    let members = registry::build(config)?.members();
    (0..members as u64)
        .map(|member| {
            let seed = config.train.seed + member;
            let directory = match members {
                1 => run.clone(),
                _ => run.member(seed),
            };
            Ok((registry::training_settings(config, seed)?, directory))
        })
        .collect()
}

/// The members of a run that was trained in its own directory.
///
/// # Errors
/// A run without a readable `data.json`, or one that was trained on another base model or with
/// another task file.
pub fn members(
    config: &RunConfig,
    run: &RunDirectory,
    prepared: &Prepared,
) -> Result<Vec<Member>, TrainError> {
    let known = same_model(prepared, run)?;
    same_task(config, &known, run)?;
    // What a method fits on the training questions belongs to the run. Without such a fit none are
    // loaded.
    let files = prepared.splits.account.files.iter();
    unchanged(run, &known, files.map(|file| (&*file.path, &*file.sha256)))?;
    let questions = known.split.used[0];
    let trainings = trainings(config, run)?.into_iter();
    Ok(trainings
        .map(|(config, directory)| Member {
            config,
            directory,
            questions,
        })
        .collect())
}

/// The adapters of one training that the method asks.
pub fn chosen(method: &dyn Method, trained: Trained) -> Vec<Llama> {
    match method.uses_snapshots() {
        true => trained.snapshots,
        false => vec![trained.last],
    }
}

/// A run whose base model and members are in memory.
pub struct LoadedRun {
    /// The run's settings.
    pub config: RunConfig,
    /// Model files and questions; training questions only where the method's fit looks at them.
    pub prepared: Prepared,
    /// The model without an adapter.
    pub base: Llama,
    /// The model with each member's adapter; the base model itself where nothing is trained.
    pub members: Vec<Llama>,
    /// The temperature that the first answers of the training call for; absent where none were
    /// kept, and where several trainings are asked.
    pub temperature: Option<PrequentialTemperature>,
    /// The run's method.
    pub method: Arc<dyn Method>,
    setup: Setup,
}

impl LoadedRun {
    /// Puts together what a training leaves in memory.
    ///
    /// # Errors
    /// An unknown method.
    pub fn new(
        config: &RunConfig,
        setup: &Setup,
        prepared: Prepared,
        base: Llama,
        members: Vec<Llama>,
        temperature: Option<PrequentialTemperature>,
    ) -> Result<Self, TrainError> {
        Ok(Self {
            temperature,
            method: registry::build(config)?,
            config: config.clone(),
            setup: setup.clone(),
            prepared,
            base,
            members,
        })
    }

    /// Loads the members from their directories, and the base model for questions of at most
    /// `positions` tokens.
    ///
    /// # Errors
    /// Weights that cannot be read, a training that has not finished, or an adapter that does not
    /// fit its settings.
    pub fn open(
        config: &RunConfig,
        setup: &Setup,
        mut prepared: Prepared,
        positions: usize,
        members: &[Member],
    ) -> Result<Self, TrainError> {
        let method = registry::build(config)?;
        let base = prepared.load_for(config, positions, &setup.device)?;
        let mut adapted = Vec::new();
        if method.adapter() == AdapterConfig::None {
            adapted.push(base.clone());
        } else {
            for member in members {
                let Member {
                    config,
                    directory,
                    questions,
                } = member;
                let trained = training::load(config, directory, &base, *questions)?;
                adapted.extend(chosen(&*method, trained));
            }
        }
        let directories = members.iter().map(|member| &member.directory);
        let temperature = only_temperature(directories)?;
        Self::new(config, setup, prepared, base, adapted, temperature)
    }

    /// Loads a finished run from its own directory, for new questions and for those of other
    /// `sets`.
    ///
    /// # Errors
    /// As [`prepare_finished`], [`members`] and [`Self::open`].
    pub fn of(
        directory: &RunDirectory,
        config: &RunConfig,
        setup: &Setup,
        sets: &[&Prepared],
    ) -> Result<Self, TrainError> {
        let prepared = prepare_finished(config, &setup.finder, directory.shots(config)?)?;
        let members = members(config, directory, &prepared)?;
        sets.iter().try_for_each(|set| prepared.takes(set))?;
        let positions = sets.iter().map(|set| set.positions());
        let longest = positions.fold(prepared.most_positions(), usize::max);
        Self::open(config, setup, prepared, longest, &members)
    }

    /// Whether the run's method adapts the base model at all.
    pub fn is_adapted(&self) -> bool {
        self.method.adapter() != AdapterConfig::None
    }

    /// Scores questions with the base model, in their own order. `shown` names the work on the
    /// dashboard.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn score_base(&self, shown: &str, set: &QuestionSet) -> Result<Evaluated, TrainError> {
        let members = vec![self.base.clone()];
        let none = Questions::default();
        let predictor = fit(&self.config, &self.setup, &Base, members, none, None)?;
        let asked = (&*predictor, set.prepared.tokenizer());
        evaluate(set.config, &self.setup, shown, asked, set.questions, &[])
    }

    /// Makes the members answer. What takes long is shown on the dashboard.
    ///
    /// # Errors
    /// As [`Method::fit`].
    pub fn fit(self) -> Result<FittedRun, TrainError> {
        let questions = Questions {
            train: &self.prepared.train,
            held_out: &self.prepared.held_out,
        };
        let predictor = fit(
            &self.config,
            &self.setup,
            &*self.method,
            self.members,
            questions,
            self.temperature,
        )?;
        Ok(FittedRun {
            config: self.config,
            prepared: self.prepared,
            method: self.method,
            setup: self.setup,
            predictor,
        })
    }
}

/// The temperature of the only training; none where there are several.
pub(crate) fn only_temperature<'a>(
    mut directories: impl ExactSizeIterator<Item = &'a RunDirectory>,
) -> Result<Option<PrequentialTemperature>, TrainError> {
    match (directories.len(), directories.next()) {
        (1, Some(directory)) => directory.temperature(),
        _ => Ok(None),
    }
}

/// What a fit may look at.
#[derive(Clone, Copy, Default)]
struct Questions<'a> {
    train: &'a [EncodedQuestion],
    held_out: &'a [EncodedQuestion],
}

/// So many questions, evenly spaced.
fn spaced(questions: &[EncodedQuestion], wanted: usize) -> Vec<EncodedQuestion> {
    // The first of a shuffled order would do; evenly spaced ones need no generator.
    let wanted = wanted.min(questions.len());
    (0..wanted)
        .map(|i| questions[i * questions.len() / wanted].clone())
        .collect()
}

fn fit(
    config: &RunConfig,
    setup: &Setup,
    method: &dyn Method,
    members: Vec<Llama>,
    Questions { train, held_out }: Questions,
    temperature: Option<PrequentialTemperature>,
) -> Result<Box<dyn Predictor>, TrainError> {
    let progress = |done: usize, total: usize| {
        setup.telemetry.phase(Phase::Evaluating {
            name: format!("fitting {}", method.name()),
            done: done.min(total),
            total,
        });
        !setup.state.stop.load(Ordering::SeqCst)
    };
    let questions = spaced(train, method.fit_questions());
    let held_out = spaced(held_out, method.fit_questions());
    method.fit(
        members,
        &FitContext {
            questions: &questions,
            all_questions: train.len(),
            held_out: &held_out,
            temperature,
            batch_tokens: passes::asked(config.evaluation.batch_tokens, &setup.device, 0),
            device: &setup.device,
            seed: config.train.seed,
            progress: &progress,
        },
    )
}

/// Questions to score together.
#[derive(Debug, Clone, Copy)]
pub struct QuestionSet<'a> {
    /// Name of the set's directory below `evaluation/`: a dataset, or [`HELD_OUT`].
    pub name: &'a str,
    /// Settings by which the questions are asked.
    pub config: &'a RunConfig,
    /// Encodes other wordings of the questions.
    pub prepared: &'a Prepared,
    /// The questions, encoded.
    pub questions: &'a [EncodedQuestion],
    /// The questions as text, in the same order.
    pub texts: &'a [MultipleChoice],
}

impl<'a> QuestionSet<'a> {
    /// The test questions of a dataset.
    pub fn test(name: &'a str, config: &'a RunConfig, prepared: &'a Prepared) -> Self {
        Self {
            name,
            config,
            prepared,
            questions: &prepared.test,
            texts: &prepared.splits.test,
        }
    }

    /// The held-out questions of the run's own dataset.
    pub fn held_out(config: &'a RunConfig, prepared: &'a Prepared) -> Self {
        Self {
            name: HELD_OUT,
            config,
            prepared,
            questions: &prepared.held_out,
            texts: &prepared.splits.held_out,
        }
    }
}

/// A run that is ready to answer.
pub struct FittedRun {
    /// The run's settings.
    pub config: RunConfig,
    /// Model files and questions; training questions only where the method's fit looked at them.
    pub prepared: Prepared,
    /// The run's method.
    pub method: Arc<dyn Method>,
    /// Where and how the run is asked.
    pub setup: Setup,
    predictor: Box<dyn Predictor>,
}

/// The row of a new question.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRow {
    /// What the run says. The id is the question's place.
    pub row: ScoredRow,
    /// The question was too long for the run's settings and lost a part.
    pub shortened: bool,
}

impl FittedRun {
    /// Opens a finished run for new questions.
    ///
    /// # Errors
    /// As [`LoadedRun::of`] and [`LoadedRun::fit`].
    pub fn open(
        directory: &RunDirectory,
        config: &RunConfig,
        setup: &Setup,
    ) -> Result<Self, TrainError> {
        LoadedRun::of(directory, config, setup, &[])?.fit()
    }

    /// Scores questions, in their own order, together with the other wordings that the method
    /// asks. `shown` names the work on the dashboard.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn score(&self, shown: &str, set: &QuestionSet) -> Result<Evaluated, TrainError> {
        let wordings = self.method.perturbations();
        let seed = self.config.train.seed;
        let views = set.prepared.views(set.texts, wordings, seed)?;
        let asked = (&*self.predictor, set.prepared.tokenizer());
        evaluate(set.config, &self.setup, shown, asked, set.questions, &views)
    }

    /// Looks whether a question can be put.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(&self, question: &MultipleChoice) -> Result<(), TrainError> {
        let alone = std::slice::from_ref(question);
        self.prepared.encode(alone)?;
        let seed = self.config.train.seed;
        self.prepared
            .views(alone, self.method.perturbations(), seed)?;
        Ok(())
    }

    /// Answers new questions, in their own order.
    ///
    /// # Errors
    /// A question that cannot be put, or an answer that is no number.
    pub fn answer(&self, questions: &[MultipleChoice]) -> Result<Vec<NewRow>, TrainError> {
        let wordings = self.method.perturbations();
        let seed = self.config.train.seed;
        let mut encoded = self.prepared.encode(questions)?;
        let mut views = self.prepared.views(questions, wordings, seed)?;
        // Names need not be unique; places are.
        for set in std::iter::once(&mut encoded).chain(views.iter_mut().map(|v| &mut v.questions)) {
            for (place, question) in set.iter_mut().enumerate() {
                question.id = place.to_string();
            }
        }
        let asked = (&*self.predictor, self.prepared.tokenizer());
        let shown = "questions";
        let found = evaluate(&self.config, &self.setup, shown, asked, &encoded, &views)?;
        let rows = found.rows.into_iter().zip(encoded);
        Ok(rows
            .map(|(row, question)| NewRow {
                row,
                shortened: question.shortened,
            })
            .collect())
    }

    /// The models whose probabilities are averaged; none where answers come about in another way.
    pub fn samples(&self) -> Vec<Sample<'_>> {
        self.predictor.samples()
    }
}
